"""An export folder: everything that somebody needs who deploys a network and does not have gate2static."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from gate2static.errors import ExportError
from gate2static.export.engine_from_onnx import EngineReport
from gate2static.export.formats import FileReport, export_static
from gate2static.export.int8_from_onnx import Int8Report
from gate2static.export.onnx_ends import ends_of
from gate2static.export.onnx_from_static import OnnxReport
from gate2static.export.package.examples import CPP_FILE, PYTHON_FILE, write_examples
from gate2static.export.package.model_json import Entry, description, is_export, kept_files, write_description
from gate2static.files import is_file
from gate2static.static import StaticModel

EXPORTS = Path("exports")
"""The folder of all exports, if no other one is named."""
RUN_FILE = "run.json"
"""The file that every folder of a run has."""
_STAGING = ".export-"
"""The start of the name of the folder in which an export's files are made."""


def default_folder(static_dir: Path, tasks: Sequence[str] = ()) -> Path:
    """Returns the folder that a static network is exported to: `exports/<run>-<network>` for a network of a run.

    Other networks have the name of their folder.

    Args:
        static_dir: The static network's folder.
        tasks: The tasks that are exported, where these are not all; they become part of the name.
    """
    folder = static_dir.resolve()
    run_dir = folder.parent.parent
    # `runs/digits/gated-0.05/static` is one of many folders of this name.
    is_of_run = folder.name == "static" and is_file(run_dir / RUN_FILE)
    names = [run_dir.name, folder.parent.name] if is_of_run else [folder.name or "static"]
    return EXPORTS / "-".join([*names, *tasks])


def export_package(
    static: StaticModel,
    folder: Path,
    *,
    latencies: Sequence[Mapping[str, Any]] = (),
    batch: tuple[int, int, int] = (1, 1, 8),
    preprocess: bool = False,
    argmax: bool = False,
    accept: Callable[[list[Path]], None] | None = None,
    **options: Any,
) -> tuple[tuple[FileReport, ...], Entry]:
    """Exports a static network with `model.json` and examples beside it; `model.onnx` is always among the files.

    Args:
        static: The network.
        folder: The export folder. Files of an earlier export of the same network stay.
        latencies: Measured latencies for `model.json`.
        batch: The smallest, the usual and the largest batch size of engines.
        preprocess: As in `export_onnx`.
        argmax: As in `export_onnx`.
        accept: Is called with the ONNX files before they get their place in the folder; where it raises, they never do.
        options: The other arguments of `export_static`.

    Returns:
        A report per file, and the content of `model.json`.

    Raises:
        ExportError: The options do not go together, the folder holds somebody else's examples, or a step failed.
        MissingDependencyError: An engine's library is not there; found before anything is made.
        VerificationError: An ONNX file does not compute what the static network computes.
    """
    _check_examples(folder)
    ends = ends_of(static, preprocess=preprocess, argmax=argmax)
    options |= {"preprocess": preprocess, "argmax": argmax}
    with _staging(folder) as staging:
        staged = export_static(static, staging, with_fp32=True, batch=batch, **options)
        if accept is not None:
            accept([report.path for report in staged if report.path.suffix == ".onnx"])
        for path in staging.iterdir():
            path.replace(folder / path.name)
    reports = tuple(replace(report, path=folder / report.path.name) for report in staged)
    written = [_entry(report) for report in reports]
    described = partial(description, static, ends=ends, batch=batch, latencies=latencies)
    kept = kept_files(folder, described(written))
    content = described([*written, *kept])
    write_description(folder, content)
    write_examples(folder, static, ends)
    return reports, content


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Makes a folder inside the export folder, which nobody takes for a deployable, and removes it afterwards."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_STAGING}*"):  # by an export that was killed
            rmtree(left)
        staging = TemporaryDirectory(prefix=_STAGING, dir=folder)
    except OSError as error:
        raise ExportError(f"cannot write the export folder {folder}: {error.strerror or error}") from error
    try:
        with staging as path:
            yield Path(path)
    finally:
        for parent in made:
            if any(parent.iterdir()):
                break
            parent.rmdir()


def _check_examples(folder: Path) -> None:
    """Refuses a folder whose examples are not those of an earlier export: they would be replaced."""
    names = [name for name in (PYTHON_FILE, CPP_FILE) if (folder / name).exists()]
    if names and not is_export(folder):
        raise ExportError(f"{folder} holds {', '.join(names)}, and no model.json of an export; give another folder")


def _entry(report: FileReport) -> Entry:
    """Returns what `model.json` says of a file."""
    if isinstance(report, OnnxReport):
        return {
            **_file(report.path, report.size_bytes, report.sha256),
            "precision": report.precision,
            "opset": report.opset,
            "batch_size": report.batch_size,
            "largest_relative_errors": dict(report.errors),
            "tolerances": dict(report.tolerances),
        }
    if isinstance(report, Int8Report):
        return {
            **_file(report.path, report.size_bytes, report.sha256),
            "precision": "int8",
            "opset": report.opset,
            "batch_size": report.batch_size,
            "calibration_samples": report.samples,
            "relative_rms_errors": dict(report.rms_errors),
        }
    if isinstance(report, EngineReport):
        sidecar = report.sidecar
        return {
            **_file(report.path, sidecar.size_bytes, sidecar.sha256),
            "precision": sidecar.precision,
            "library": f"{sidecar.backend} {sidecar.library_version}",
            "compute_capabilities": list(sidecar.compute_capabilities),
        }
    return {**_file(report.path, report.size_bytes, report.sha256), "precision": "fp32"}


def _file(path: Path, size_bytes: int, sha256: str) -> Entry:
    return {"file": path.name, "sha256": sha256, "size_bytes": size_bytes}
