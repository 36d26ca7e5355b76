"""The tables of `prune --dry-run` and `--explain`: the pruning plan, and the operators without a rule."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from gate2static.prune import BarrierCost, Layout, Plan
from gate2static.static import Manifest


def plan_table(plan: Plan) -> Table:
    """Returns a table of the plan, one row per layer: channels that stay in each stream, MACs per sample, and the rule.

    A layer with the rule `barrier` has no pruning rule and runs whole.
    """
    channels = plan.channels
    streams = (*channels.gated.tasks, "shared")
    table = Table(title="Channels that stay, of each stream")
    for title in ("layer", *streams, "of", "MACs", "rule"):
        table.add_column(title, justify="left" if title in ("layer", "rule") else "right")
    gated_macs = 0
    for node, rule in channels.rules.items():
        if not rule.info.macs:
            continue
        if rule.streams > 1:
            name = node.name
            cells = [str(np.isin(view, channels.live[node]).sum()) for view in channels.numberings[node].views]
        else:
            name = f"{node.name} (head)"
            cells = [""] * len(streams)
        kind = type(rule).__name__.lower()
        table.add_row(name, *cells, str(rule.channels), f"{channels.macs([node]):,}", kind)
        gated_macs += rule.info.macs * rule.streams
    after = channels.macs()
    table.caption = (
        f"{gated_macs / 1e6:.2f} M MACs per sample before, {after / 1e6:.2f} M after; {_in_words(plan.layout)}"
    )
    return table


def barrier_table(costs: Sequence[BarrierCost]) -> Table:
    """Returns a table of the operators without a rule, one row per operator: its nodes and its MACs per sample."""
    table = Table(
        title="Operators without a rule: they run whole, once per distinct stream",
        caption="behind: MACs of layers that only these operators read; a rule could save at most this",
    )
    for title in ("operator", "where", "MACs", "behind"):
        table.add_column(title, justify="left" if title in ("operator", "where") else "right")
    for cost in costs:
        names = ", ".join(cost.nodes[:_NAMED]) + f", … {len(cost.nodes)} in all" * (len(cost.nodes) > _NAMED)
        table.add_row(cost.operator, names, f"{cost.macs:,}", f"{cost.behind:,}")
    return table


def _in_words(layout: Layout) -> str:
    """Returns a description of a layout."""
    words = ["common channels worked on once" if layout.share_work else "each stream put together after its gates"]
    if layout.block_channels:
        words.append(f"blocks of {layout.block_channels} channels and more")
    if layout.convolve_moves:
        words.append("channels moved by convolutions")
    if layout.channels_first:
        words.append("tokens moved as rows")
    return ", ".join(words)


def pruned_line(manifest: Manifest, folder: Path) -> str:
    """Returns the costs of a static network beside those of its baselines, in one line."""
    macs = manifest.macs
    parameters = manifest.parameters
    return (
        f"pruned: {folder}: {macs.static / 1e6:.2f} M MACs and {parameters.static / 1e3:.1f} k parameters "
        f"(separate networks {macs.separate / 1e6:.2f} M, {parameters.separate / 1e3:.1f} k; "
        f"one shared {macs.shared / 1e6:.2f} M, {parameters.shared / 1e3:.1f} k)"
    )


_NAMED = 3
"""The number of nodes that `barrier_table` names per operator."""
