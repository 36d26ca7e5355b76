"""Networks that were trained elsewhere, which a report shows beside those of its run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gate2static.errors import Gate2StaticError
from gate2static.report.content import Content, TableRow, TaskColumn
from gate2static.strict_json import RowName, read_model
from gate2static.tasks import relative_gain

_ADVICE = "docs/sweeps.md says what it holds"
Size = Annotated[int, Field(ge=0, lt=2**63)]


class ForeignRow(BaseModel):
    """The content of a file for `report --row`.

    Attributes:
        name: The network's name in the table.
        metrics: The main metric by task: that of the run's own networks, on the same test images.
        macs: Multiply-accumulates per sample, heads included.
        parameters: The number of parameters, heads included.
        latency_ms: The median time of one forward pass in ms, on the machine of the run's latencies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: RowName
    metrics: Annotated[dict[str, float], Field(max_length=256)]
    macs: Size | None = None
    parameters: Size | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None


def with_foreign_rows(content: Content, files: Sequence[Path]) -> Content:
    """Returns a report's content with the networks of JSON files behind its own.

    The first sentence of the report remains about its own networks. Latencies relative to other networks are left out,
    because those are paired round by round.

    Args:
        content: The report's content.
        files: The files, one `ForeignRow` each.

    Raises:
        Gate2StaticError: A file is none, has other tasks than the run, or the name of another row.
    """
    rows = list(content.rows)
    separate = next((row.metrics for row in rows if row.kind == "separate"), None)
    for file in files:
        foreign = read_model(file, ForeignRow, what="row of a report", advice=_ADVICE, error=Gate2StaticError)
        tasks = {column.task for column in content.columns}
        if foreign.metrics.keys() != tasks:
            raise Gate2StaticError(
                f"{file}: metrics are of {', '.join(sorted(foreign.metrics)) or 'no task'}; the run has "
                f"{', '.join(sorted(tasks))}. Give one number for each."
            )
        if foreign.name in {row.name for row in rows}:
            raise Gate2StaticError(f"{file}: the report has a row {foreign.name} already; choose another name")
        rows.append(
            TableRow(
                name=foreign.name,
                kind="architecture",
                metrics=foreign.metrics,
                delta_mtl_percent=_delta_mtl_percent(foreign.metrics, separate, content.columns),
                macs=foreign.macs,
                parameters=foreign.parameters,
                latency_ms=foreign.latency_ms,
            )
        )
    names = ", ".join(row.name for row in rows[len(content.rows) :])
    facts = content.facts | ({"trained elsewhere": names} if names else {})
    return replace(content, rows=tuple(rows), facts=facts)


def _delta_mtl_percent(
    metrics: dict[str, float], baseline: dict[str, float] | None, columns: Sequence[TaskColumn]
) -> float | None:
    """Returns Δ_MTL (eq. 6) in per cent; None where there is no baseline that a gain can be relative to."""
    if baseline is None or not all(baseline.values()):
        return None
    gains = [
        relative_gain(metrics[column.task], baseline[column.task], higher_is_better=column.higher_is_better)
        for column in columns
    ]
    return 100 * mean(gains)
