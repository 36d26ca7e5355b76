"""Everything that `gate2static export` writes, in the order in which one file is made from another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rich.table import Table

from gate2static.errors import ExportError
from gate2static.export.calibration_data import calibration_data, check_calibration
from gate2static.export.engine_from_onnx import EngineReport, build_engine
from gate2static.export.int8_from_onnx import Int8Report, quantize_onnx
from gate2static.export.onnx_ends import ends_of, with_ends
from gate2static.export.onnx_from_static import OnnxReport, export_onnx
from gate2static.export.pt2_from_static import Pt2Report, export_pt2
from gate2static.files import sha256_of, write_atomically
from gate2static.progress import progress_bar
from gate2static.runtimes.onnx_file import read_onnx
from gate2static.runtimes.tensorrt import TrtBackend, trt_library
from gate2static.static.meaning import Ends

if TYPE_CHECKING:
    from gate2static.static import StaticModel

FileReport = OnnxReport | Int8Report | Pt2Report | EngineReport
AnyPrecision = Literal["fp32", "fp16", "int8"]
_SUFFIXES = {"tensorrt": "trt", "tensorrt-rtx": "trt-rtx"}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One file to be made: what the progress bar says, and the call that makes it."""

    says: str
    make: Callable[[], FileReport]


def export_static(
    static: "StaticModel",
    folder: str | Path,
    *,
    onnx: bool = True,
    pt2: bool = False,
    engines: Sequence[TrtBackend] = (),
    precision: AnyPrecision = "fp32",
    calibration: str | Path | None = None,
    compute_capabilities: Sequence[str] | None = None,
    batch: tuple[int, int, int] = (1, 1, 8),
    opset: int | None = None,
    batch_size: int | None = None,
    with_fp32: bool = False,
    preprocess: bool = False,
    argmax: bool = False,
    timing_cache: str | Path | None = None,
    progress: bool = True,
) -> tuple[FileReport, ...]:
    """Write a static network for deployment: `model[.fp16|.int8].onnx`, `….trt[-rtx].engine`, `model.pt2`.

    int8 is made from `model.onnx`, and engines from the ONNX file of their precision: those are written too.

    Args:
        static: the network; it is not changed.
        folder: where the files go; it is made if missing.
        onnx: write ONNX.
        pt2: write a `torch.export` archive, always fp32.
        engines: "tensorrt", "tensorrt-rtx" or both.
        precision: of ONNX and engines.
        calibration: for int8, an `.npy` file of preprocessed inputs, a folder of pictures or a recipe, as of
            `calibration_data`.
        compute_capabilities: as in `build_engine`.
        batch: as in `build_engine`.
        opset: The opset of ONNX files; None takes the exporter's own.
        batch_size: The only batch size of ONNX files and engines; None for any.
        with_fp32: Whether `model.onnx` is written too where fp16 is asked for.
        preprocess: As in `export_onnx`, for ONNX files and engines.
        argmax: As in `export_onnx`, for ONNX files and engines.
        timing_cache: as in `build_engine`, for TensorRT.
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        One report a file, in the order they were made.

    Raises:
        ExportError: arguments that do not go together, or a step that failed; files already made stay.
        MissingDependencyError: an engine's library is not there; found before anything is made.
        VerificationError: the ONNX model does not compute what the static network computes.
    """
    folder = Path(folder)
    _check(static, precision, calibration, nothing=not (onnx or pt2 or engines))
    ends = ends_of(static, preprocess=preprocess, argmax=argmax)
    if pt2 and ends != Ends():
        raise ExportError("an archive of torch.export holds the network alone: leave out pt2, or preprocess and argmax")
    for backend in engines:
        trt_library(backend)
    stem = "model" if precision == "fp32" else f"model.{precision}"
    if batch_size is not None:
        batch = (batch_size,) * 3
    steps = [_Step(says="model.pt2", make=partial(export_pt2, static, folder / "model.pt2"))] if pt2 else []
    form: dict[str, Any] = {"opset": opset, "batch_size": batch_size}
    if with_fp32 or ((onnx or engines) and precision != "fp16"):
        path = folder / "model.onnx"
        steps.append(_Step(says=path.name, make=partial(export_onnx, static, path, **form)))
    if onnx or engines:
        steps += _reduced_steps(static, folder, precision, calibration, form)
    engine_steps = []
    for backend in engines:
        path = folder / f"{stem}.{_SUFFIXES[backend]}.engine"
        options: dict[str, Any] = {"backend": backend, "compute_capabilities": compute_capabilities, "batch": batch}
        if backend == "tensorrt":
            options |= {"timing_cache": timing_cache, "compute_capabilities": None}
        engine_steps.append(_Step(says=path.name, make=partial(build_engine, folder / f"{stem}.onnx", path, **options)))
    with progress_bar(visible=progress) as bar:
        task = bar.add_task("exporting", total=len(steps) + len(engine_steps))

        def reports_of(steps: Sequence[_Step]) -> Iterator[FileReport]:
            for step in steps:
                bar.update(task, description=step.says)
                yield step.make()
                bar.advance(task)

        made = list(reports_of(steps))  # all of them: int8 is made from the plain file
        files = [_with_ends(report, static, ends) for report in made]
        return (*files, *reports_of(engine_steps))


def _with_ends(report: FileReport, static: "StaticModel", ends: Ends) -> FileReport:
    """Adds to an ONNX file what it shall do besides the network."""
    if ends == Ends() or not isinstance(report, (OnnxReport, Int8Report)):
        return report
    data = with_ends(read_onnx(report.path), static, ends)
    write_atomically(report.path, data)
    return replace(report, size_bytes=len(data), sha256=sha256_of(data))


def export_table(reports: Sequence[FileReport]) -> Table:
    """One row a file: its size and how far it is from what it was made from."""
    table = Table("file", "MiB", "error", "")
    for report in reports:
        size_bytes = report.sidecar.size_bytes if isinstance(report, EngineReport) else report.size_bytes
        table.add_row(report.path.name, f"{size_bytes / 2**20:.2f}", *_error(report))
    return table


def _reduced_steps(
    static: "StaticModel",
    folder: Path,
    precision: AnyPrecision,
    calibration: str | Path | None,
    form: Mapping[str, Any],
) -> list[_Step]:
    """Returns the steps to the ONNX file of a reduced precision; int8 is made from `model.onnx`, fp16 is not."""
    path = folder / f"model.{precision}.onnx"
    if precision == "fp16":
        return [_Step(says=path.name, make=partial(export_onnx, static, path, precision="fp16", **form))]
    if precision == "fp32":
        return []
    assert calibration is not None
    full = folder / "model.onnx"
    return [_Step(says=path.name, make=lambda: quantize_onnx(full, path, calibration_data(calibration, static)))]


def _check(static: "StaticModel", precision: str, calibration: str | Path | None, *, nothing: bool) -> None:
    if nothing:
        raise ExportError("nothing to export: ask for ONNX, .pt2 or an engine")
    if precision not in get_args(AnyPrecision):
        raise ExportError(f"unknown precision {precision!r}; allowed: {', '.join(get_args(AnyPrecision))}")
    if (precision == "int8") != (calibration is not None):
        raise ExportError("int8 needs calibration data and nothing else does: pass int8 and calibration, or neither")
    if calibration is not None:
        check_calibration(calibration, static)  # before anything is exported


def _error(report: FileReport) -> tuple[str, str]:
    if isinstance(report, OnnxReport):
        return f"{max(report.errors.values()):.1e}", "against torch, largest over the tasks"
    if isinstance(report, Int8Report):
        return f"{max(report.rms_errors.values()):.1e}", f"RMS against fp32 on {report.samples} samples"
    if isinstance(report, EngineReport):
        return "-", f"{report.sidecar.backend} for compute capability {', '.join(report.sidecar.compute_capabilities)}"
    return "-", "torch.export archive"
