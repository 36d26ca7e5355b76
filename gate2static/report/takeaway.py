"""The report's first sentence: which network to deploy, and what it gains and costs."""

from collections.abc import Sequence

from gate2static.report.content import TableRow


def takeaway(rows: Sequence[TableRow]) -> str:
    """Returns one sentence about the cheapest network that is as good as separate networks.

    Where none is, the sentence is about the network with the best Δ_MTL. Costs are latencies where all rows have one,
    and MACs otherwise.

    Args:
        rows: The networks of a run.

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
        start = f"{best.name} is as good as separate networks"
    else:
        best = max(others, key=lambda row: row.delta_mtl_percent or 0.0)
        start = f"No network is as good as separate networks; {best.name} comes nearest"
    cost = costs[best.name]
    words = " and ".join(f"{share:.2f} of their {name}" for name, share in cost.items())
    sentence = f"{start}: Δ_MTL {best.delta_mtl_percent:+.2f} %" + (f" at {words}." if words else ".")
    if cost.get(measure, 0.0) >= 1:
        sentence += " It is no cheaper than they are, so there is nothing to gain from it."
    return sentence


def _costs(row: TableRow, separate: TableRow) -> dict[str, float]:
    """Returns a network's MACs and latency over those of the separate networks, as far as they are known."""
    costs = {}
    if row.macs is not None and separate.macs:
        costs["MACs"] = row.macs / separate.macs
    if "separate" in row.latency_ratios:
        costs["latency"] = row.latency_ratios["separate"]
    return costs
