"""The rest of the road for a whole run: every network pruned, verified, exported and timed, and the report."""

from pathlib import Path

from gate2static.bench import benchmark
from gate2static.errors import MissingDependencyError
from gate2static.files import is_up_to_date
from gate2static.pipeline import ONNX_FILE, delivery
from gate2static.progress import progress_bar
from gate2static.report import WrittenReport, write_report
from gate2static.train import RunResult, load_result
from gate2static.train.run_lock import locked


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
                    bar.console.print(f"{name}: cannot {step.verb}: {error}", style="yellow")
                bar.advance(bar_task)


def _time(run_dir: Path, result: RunResult, threads: int | None) -> None:
    """Times all networks side by side: the shared one first, which the others are compared with."""
    # The reference comes first.
    names = sorted((row.name for row in result.rows), key=lambda name: name != "shared")
    models = {name: run_dir / name / ONNX_FILE for name in names}
    if not is_up_to_date(run_dir / "latency.json", models.values()):
        benchmark(models, duration_s=2.0, threads=threads).to_json(run_dir / "latency.json")
