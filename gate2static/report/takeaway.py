"""The report's first sentence: which network to deploy, and what it gains and costs."""

from collections.abc import Sequence

from gate2static.report.content import TableRow, TaskColumn

_NOTABLE = 0.01
"""The relative loss from which a task is named: one per cent."""


def takeaway(rows: Sequence[TableRow], columns: Sequence[TaskColumn]) -> str:
    """Returns one sentence about the cheapest network that loses nothing on average against separate networks.

    Where all lose, the sentence is about the network with the best Δ_MTL. Costs are latencies where all rows have one,
    and MACs otherwise. Tasks that lose more than one per cent are named.

    Args:
        rows: The networks of a run.
        columns: The run's tasks.

    Returns:
        The sentence; empty where no network can be compared with separate ones yet.
    """
    separate = next((row for row in rows if row.kind == "separate"), None)
    others = [row for row in rows if row.kind != "separate" and row.delta_mtl_percent is not None]
    if separate is None or not others or not separate.macs:
        return ""
    costs = {row.name: _costs(row, separate) for row in others}
    has_latency = all("latency" in cost for cost in costs.values())
    measure = "latency" if has_latency else "MACs"
    as_good = [row for row in others if (row.delta_mtl_percent or 0.0) >= 0 and measure in costs[row.name]]
    if as_good:
        best = min(as_good, key=lambda row: costs[row.name][measure])
        start = f"{best.name} loses nothing on average against separate networks"
    else:
        best = max(others, key=lambda row: row.delta_mtl_percent or 0.0)
        start = f"Every network loses against separate networks; {best.name} comes nearest"
    cost = costs[best.name]
    words = " and ".join(f"{share:.2f} of their {name}" for name, share in cost.items())
    sentence = f"{start}: Δ_MTL {best.delta_mtl_percent:+.2f} %" + (f" at {words}" if words else "")
    losses = _losses(best, separate, columns)
    sentence += f"; {', '.join(losses)}." if losses else "."
    if cost.get(measure, 0.0) >= 1:
        sentence += " It is no cheaper than they are, so there is nothing to gain from it."
    return sentence


def _losses(row: TableRow, separate: TableRow, columns: Sequence[TaskColumn]) -> list[str]:
    """Returns the tasks that lose more than one per cent of their main metric, in words."""
    losses = []
    for column in columns:
        value = (row.metrics or {}).get(column.task)
        baseline = (separate.metrics or {}).get(column.task)
        if value is None or not baseline:
            continue
        loss = (baseline - value if column.higher_is_better else value - baseline) / abs(baseline)
        if loss > _NOTABLE:
            losses.append(f"{column.task} is {100 * loss:.1f} % worse")
    return losses


def _costs(row: TableRow, separate: TableRow) -> dict[str, float]:
    """Returns a network's MACs and latency over those of the separate networks, as far as they are known."""
    costs = {}
    if row.macs is not None and separate.macs:
        costs["MACs"] = row.macs / separate.macs
    if "separate" in row.latency_ratios:
        costs["latency"] = row.latency_ratios["separate"]
    return costs
