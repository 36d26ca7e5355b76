"""A pruning plan for a terminal: what `prune --dry-run` and `--explain` show."""

from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from gate2static.prune import BarrierCost, Layout, Plan


def plan_table(plan: Plan) -> Table:
    """Returns one row per layer that computes: how many channels stay of each stream, its MACs per sample, its rule.

    A layer whose rule is `barrier` is one that pruning does not know: it runs whole.
    """
    channels = plan.channels
    streams = (*channels.gated.tasks, "shared")
    table = Table(title="Channels that stay, of each stream")
    for title in ("layer", *streams, "of", "MACs", "rule"):
        table.add_column(escape(title), justify="left" if title in ("layer", "rule") else "right")
    gated_macs = 0
    for node, rule in channels.rules.items():
        if not rule.info.macs:
            continue
        kept = [str(np.isin(view, channels.live[node]).sum()) for view in channels.numberings[node].views]
        name, cells = (node.name, kept) if rule.streams > 1 else (f"{node.name} (head)", [""] * len(streams))
        kind = type(rule).__name__.lower()
        table.add_row(escape(name), *cells, str(rule.channels), f"{channels.macs([node]):,}", kind)
        gated_macs += rule.info.macs * rule.streams
    after = channels.macs()
    table.caption = (
        f"{gated_macs / 1e6:.2f} M MACs per sample before, {after / 1e6:.2f} M after; {_in_words(plan.layout)}"
    )
    return table


def _in_words(layout: Layout) -> str:
    """Returns how the channels are laid out."""
    words = ["common channels worked on once" if layout.share_work else "each stream put together after its gates"]
    if layout.block_channels:
        words.append(f"blocks of {layout.block_channels} channels and more")
    if layout.convolve_moves:
        words.append("channels moved by convolutions")
    if layout.channels_first:
        words.append("tokens moved as rows")
    return ", ".join(words)


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
