"""The latencies of a run: from `latency.json` to the values that the report shows."""

from pathlib import Path
from typing import Any

from gate2static.bench import LatencyReport, TargetLatency
from gate2static.errors import BenchError
from gate2static.files import is_up_to_date
from gate2static.report.content import Timing

PERCENTILES = (50, 90, 95, 99)
FILE = "latency.json"


def row_name(target: TargetLatency) -> str:
    """Returns the name of the row that was timed; `bench RUN/*/static` names its targets `<row>/static`."""
    return target.name.partition("/")[0]


def main_targets(report: LatencyReport) -> dict[str, TargetLatency]:
    """Returns, by row, the measurements for the result table: those on the backend of the first target."""
    backend = report.targets[0].backend
    return {row_name(target): target for target in reversed(report.targets) if target.backend == backend}


def ratios(report: LatencyReport, target: TargetLatency) -> dict[str, float]:
    """Returns, by row name, the target's latency over that row's latency, paired round by round."""
    references = main_targets(report)
    return {
        name: LatencyReport.model_copy(report, update={"targets": (reference, target)}).ratio(target)
        for name, reference in references.items()
    }


def slower_than_separate(report: LatencyReport) -> tuple[str, ...]:
    """Returns a sentence for each gated row that is slower than the row `separate` of the same measurement."""
    if not report.targets:
        return ()
    found = []
    for name, target in main_targets(report).items():
        ratio = ratios(report, target).get("separate", 0.0)
        if name.startswith("gated") and ratio > 1:
            found.append(f"{name}: {ratio:.2f} times the latency of separate networks, so it is slower than they are")
    return tuple(found)


def timings(report: LatencyReport) -> tuple[Timing, ...]:
    """Returns every measurement of a latency report."""
    return tuple(_timing(target) for target in report.targets)


def _timing(target: TargetLatency) -> Timing:
    return Timing(
        name=row_name(target),
        backend=target.backend,
        precision=target.precision,
        percentiles_ms={percent: target.percentile_ms(percent) for percent in PERCENTILES},
        variation=target.variation,
        runs=target.runs,
    )


def setting(report: LatencyReport) -> str:
    """Returns the machine and the protocol of the measurements in words, without a full stop."""
    machine = report.environment
    protocol = report.protocol
    device = f", {machine.gpu}" if machine.gpu else ""
    cores = f"{machine.threads} of {machine.cores} cores"
    backend = report.targets[0].backend
    version = machine.versions.get("onnxruntime-gpu") or machine.versions.get("onnxruntime")
    library = f"ONNX Runtime {version}" if backend.startswith("onnxruntime") and version else backend
    return (
        f"{library}, {machine.cpu}, {cores}{device}, batch size {protocol.batch_size}, "
        f"median of {protocol.rounds} interleaved rounds"
    )


def known_latencies(static_dir: Path) -> tuple[dict[str, Any], ...]:
    """Returns what a run's `latency.json` says of one of its static networks; nothing where it does not know it.

    Args:
        static_dir: The static network's folder, `<run>/<row>/static`.
    """
    folder = static_dir.resolve()
    path = folder.parent.parent / FILE
    if folder.name != "static" or not is_up_to_date(path, [folder / "graph.json"]):
        return ()
    try:
        report = LatencyReport.from_json(path)
    except BenchError:  # what is exported does not depend on it
        return ()
    where = setting(report) if report.targets else ""
    return tuple(
        {
            "backend": timing.backend,
            "precision": timing.precision,
            "batch_size": report.protocol.batch_size,
            **{f"p{percent}_ms": latency_ms for percent, latency_ms in timing.percentiles_ms.items()},
            "measured_on": where,
        }
        for timing in timings(report)
        if timing.name == folder.parent.name
    )
