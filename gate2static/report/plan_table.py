"""A pruning plan for a terminal: what `prune --dry-run` and `--explain` show."""

import numpy as np
from rich.markup import escape
from rich.table import Table

from gate2static.gates import GatedModel
from gate2static.prune import Plan


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
        stream_of_live = plan.live[node] // rule.channels
        kept = [str(np.sum(stream_of_live == stream)) for stream in range(rule.streams)]
        name, cells = (node.name, kept) if rule.streams > 1 else (f"{node.name} (head)", [""] * len(streams))
        macs = rule.info.macs // rule.channels * len(stream_of_live)
        table.add_row(escape(name), *cells, str(rule.channels), f"{macs:,}", type(rule).__name__.lower())
        gated_macs += rule.info.macs * rule.streams
    table.caption = f"{gated_macs / 1e6:.2f} M MACs per sample before, {plan.macs() / 1e6:.2f} M after"
    return table
