"""The rest of the road for a whole run: every network pruned, verified, exported and timed, and the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from gate2static.bench import benchmark
from gate2static.errors import ArtefactError, MissingDependencyError
from gate2static.export import build_engine, export_onnx
from gate2static.export.engine_sidecar import is_built_from
from gate2static.files import is_up_to_date
from gate2static.pipeline import load_network
from gate2static.progress import progress_bar
from gate2static.prune import prune
from gate2static.report import WrittenReport, gated_checks, onnx_checks, record, was_verified, write_report
from gate2static.static import load_static
from gate2static.train import ResultRow, RunResult, load_result, with_meaning
from gate2static.train.run_lock import locked
from gate2static.verify import verify

ONNX_FILE = "model.onnx"
ENGINE_FILE = "model.trt-rtx.engine"
_EXAMPLE_CAPABILITY = "8.9"
"""The GPU (an RTX 4090, an L4) that the demo builds for on a machine without one, and says so."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a delivery.

    Attributes:
        verb: The action in words, for a progress bar: "prune".
        run: Does the step, or nothing where its file is newer than the files it is made from.
        is_optional: Whether the delivery goes on where a library for the step is missing.
    """

    verb: str
    run: Callable[[], None]
    is_optional: bool = False


def deliver(run_dir: Path, *, engines: bool = False, threads: int | None = None) -> WrittenReport:
    """Prunes, verifies, exports and times every network of a run, and writes the report.

    Files that exist are used as they are, unless they are older than the files that they are made from.

    Args:
        run_dir: A folder that `train` or `sweep` wrote.
        engines: Whether to build TensorRT-RTX engines too. Without the library, this costs a line on stderr.
        threads: The CPU threads of the timing; None leaves the number to ONNX Runtime.

    Raises:
        VerificationError: A static network does not compute the function of its gated network.
        Gate2StaticError: A step cannot do its work; the message says which step and why.
    """
    load_result(run_dir)  # a folder without a run gets an error, and no lock
    with locked(run_dir):
        result = load_result(run_dir)
        _make_networks(run_dir, result, engines=engines)
        _time(run_dir, result, threads)
        return write_report(run_dir)


def _make_networks(run_dir: Path, result: RunResult, *, engines: bool) -> None:
    """Takes every network from its checkpoint to an ONNX file or an engine."""
    deliveries = {row.name: delivery(run_dir, row, engines=engines) for row in result.rows}
    with progress_bar(visible=True) as bar:
        bar_task = bar.add_task("", total=sum(len(steps) for steps in deliveries.values()))
        for name, steps in deliveries.items():
            for step in steps:
                bar.update(bar_task, description=f"{name}: {step.verb}")
                try:
                    step.run()
                except MissingDependencyError as error:
                    if not step.is_optional:
                        raise
                    bar.console.print(f"{name}: cannot {step.verb}: {error}", style="yellow")
                bar.advance(bar_task)


def _time(run_dir: Path, result: RunResult, threads: int | None) -> None:
    """Times all networks side by side: the shared one first, which the others are compared with."""
    # The reference comes first.
    names = sorted((row.name for row in result.rows), key=lambda name: name != "shared")
    models = {name: run_dir / name / ONNX_FILE for name in names}
    if not is_up_to_date(run_dir / "latency.json", models.values()):
        benchmark(models, duration_s=2.0, threads=threads).to_json(run_dir / "latency.json")


def delivery(run_dir: Path, row: ResultRow, *, engines: bool) -> tuple[Step, ...]:
    """Returns the steps that take one network of a run from its checkpoints to an ONNX file or an engine, in order.

    Args:
        run_dir: A folder that `train` or `sweep` wrote.
        row: One of the run's networks.
        engines: Whether a TensorRT-RTX engine is built too.

    Raises:
        ArtefactError: The network's folder is a link that leads out of the run's folder.
    """
    folder = run_dir / row.name
    for path in (folder, folder / "static"):
        # A run folder may be a stranger's, and what its links lead to somebody else's.
        if not path.resolve().is_relative_to(run_dir.resolve()):
            raise ArtefactError(
                f"{path} is a link that leads out of the run's folder, to {path.resolve()}, where nothing of the run "
                "is written; remove the link, or choose another run folder."
            )
    checkpoints = [run_dir / checkpoint for checkpoint in row.checkpoints]
    # The single-task networks are several files and one gated network.
    source = run_dir / "separate" if row.kind == "separate" else checkpoints[0]
    steps = (
        Step(verb="prune", run=partial(_prune_if_older, source, checkpoints, folder / "static")),
        Step(verb="verify", run=partial(_verify_once, source, folder / "static")),
        Step(verb="export", run=partial(_export_if_older, folder / "static", folder / ONNX_FILE)),
    )
    if not engines:
        return steps
    build = Step(
        verb=f"build an engine for compute capability {engine_capability()}",
        run=partial(_build_if_older, folder / ONNX_FILE, folder / ENGINE_FILE),
        is_optional=True,
    )
    return (*steps, build)


def engine_capability() -> str:
    """Returns the compute capability that a delivery builds its engine for: this machine's, or an example."""
    if not torch.cuda.is_available():
        return _EXAMPLE_CAPABILITY
    return "{}.{}".format(*torch.cuda.get_device_capability())


def _prune_if_older(source: Path, checkpoints: Sequence[Path], static_dir: Path) -> None:
    if not is_up_to_date(static_dir / "graph.json", checkpoints):
        static = prune(load_network(source))
        static.manifest = with_meaning(static.manifest, source)
        static.save(static_dir)


def _verify_once(source: Path, static_dir: Path) -> None:
    static = load_static(static_dir)
    if was_verified(static.manifest):
        return
    report = verify(load_network(source), static)
    record(static_dir, gated_checks(report))
    report.require()


def _export_if_older(static_dir: Path, onnx: Path) -> None:
    if not is_up_to_date(onnx, [static_dir / "graph.json"]):
        exported = export_onnx(load_static(static_dir), onnx)
        record(static_dir, onnx_checks(exported.errors, exported.tolerances))


def _build_if_older(onnx: Path, engine: Path) -> None:
    if not is_built_from(engine, onnx):
        build_engine(onnx, engine, compute_capabilities=[engine_capability()])
