"""The table of a `LatencyReport` for the terminal."""

from collections.abc import Callable
from functools import partial

from rich.table import Table
from rich.text import Text

from gate2static.bench.report import UNSTABLE_CV, LatencyReport, TargetLatency
from gate2static.terminal import lines, styled

PERCENTILES = (50, 90, 95, 99)
_WORDS = ("target", "backend", "precision")


def latency_table(report: LatencyReport) -> Table:
    """Returns a table with one row per network on a backend.

    The last column is the latency over that of the first network on the same backend.
    """
    title = "Latency in ms" if len(_backends(report)) > 1 else f"Latency in ms, {report.targets[0].backend}"
    table = Table(title=title, caption=_caption(report), caption_justify="left")
    columns = _columns(report)
    for name in columns:
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=name not in _WORDS)
    for target in report.targets:
        table.add_row(*(cell(target) for cell in columns.values()))
    return table


def _columns(report: LatencyReport) -> dict[str, Callable[[TargetLatency], str | Text]]:
    """Returns the columns: by name, a function that returns a cell; columns without information are left out."""
    columns: dict[str, Callable[[TargetLatency], str | Text]] = {
        "target": lambda target: target.name,
    }
    if len(_backends(report)) > 1:
        columns["backend"] = lambda target: target.backend
    if any(target.precision != "fp32" for target in report.targets):
        columns["precision"] = lambda target: target.precision
    for percent in PERCENTILES:
        columns[f"p{percent}"] = partial(_percentile, percent=percent)
    columns["CV"] = _variation
    columns["runs"] = lambda target: str(target.runs)
    if any(target.transfers for target in report.targets):
        columns["copies"] = _transfers
    columns["× first"] = lambda target: f"{report.ratio(target):#.3g}"
    return columns


def _backends(report: LatencyReport) -> set[str]:
    return {target.backend for target in report.targets}


def _percentile(target: TargetLatency, *, percent: int) -> str:
    return f"{target.percentile_ms(percent):#.4g}".rstrip(".")


def _transfers(target: TargetLatency) -> str:
    return f"{target.transfers.upload_ms + target.transfers.download_ms:.3f}" if target.transfers else "-"


def _variation(target: TargetLatency) -> str | Text:
    text = f"{target.variation:.0%}" if target.variation >= 0.1 else f"{target.variation:.1%}"
    return text if target.stable else styled(f"{text} !", "yellow")


def _caption(report: LatencyReport) -> Text:
    machine = report.environment
    protocol = report.protocol
    device = f", {machine.gpu} (compute capability {machine.gpu_compute_capability})" if machine.gpu else ""
    hardware = f"{machine.cpu}, {machine.threads} of {machine.cores} cores{device}"
    timed = f"{protocol.rounds} rounds, {protocol.warmup_s:g} s warm-up each, {protocol.duration_s:g} s timed in all"
    said = [
        f"{hardware}; batch size {protocol.batch_size}; {timed}",
        ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
    ]
    if not all(target.stable for target in report.targets):
        said.append(
            f"! varies by more than {UNSTABLE_CV:.1%}: something else is running, or the clock is not steady. "
            "Trust the ratios more than the times, or measure longer."
        )
    return lines(said)
