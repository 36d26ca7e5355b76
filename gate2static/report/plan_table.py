"""A pruning plan for a terminal: what `prune --dry-run` and `--explain` show."""

from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from gate2static.gates import GatedModel
from gate2static.prune import BarrierCost, Plan


def plan_table(gated: GatedModel, plan: Plan) -> Table:
    """Returns one row per layer that computes: how many channels stay of each stream, its MACs per sample, its rule.

    A layer whose rule is `barrier` is one that pruning does not know: it runs whole.
    """
    streams = (*gated.tasks, "shared")
    table = Table(title="Channels that stay, of each stream")
    for title in ("layer", *streams, "of", "MACs", "rule"):
        table.add_column(escape(title), justify="left" if title in ("layer", "rule") else "right")
    gated_macs = 0
    for node, rule in plan.rules.items():
        if not rule.info.macs:
            continue
        kept = [str(np.isin(view, plan.live[node]).sum()) for view in plan.numberings[node].views]
        name, cells = (node.name, kept) if rule.streams > 1 else (f"{node.name} (head)", [""] * len(streams))
        kind = type(rule).__name__.lower()
        table.add_row(escape(name), *cells, str(rule.channels), f"{plan.macs([node]):,}", kind)
        gated_macs += rule.info.macs * rule.streams
    table.caption = f"{gated_macs / 1e6:.2f} M MACs per sample before, {plan.macs() / 1e6:.2f} M after"
    return table


def barrier_table(costs: Sequence[BarrierCost]) -> Table:
    """Returns one row per operator without a rule: where it stands, and its MACs per sample."""
    table = Table(
        title="Operators without a rule: they run whole, once a distinct stream",
        caption="behind: MACs of layers that only these operators read; a rule could save at most this",
    )
    for title in ("operator", "where", "MACs", "behind"):
        table.add_column(title, justify="left" if title in ("operator", "where") else "right")
    for cost in costs:
        names = ", ".join(cost.nodes[:_NAMED]) + f", … {len(cost.nodes)} in all" * (len(cost.nodes) > _NAMED)
        table.add_row(escape(cost.operator), escape(names), f"{cost.macs:,}", f"{cost.behind:,}")
    return table


_NAMED = 3
