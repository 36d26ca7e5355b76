"""The plan of a pruning: which channels the static network computes, and how they are laid out.

Both are decided before anything is built. The plan is what `prune` applies, and what `--dry-run` prints.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx

from gate2static.arguments import require_count
from gate2static.errors import PruneError
from gate2static.gates.model import GatedModel, gate_decisions
from gate2static.graphs import Ids
from gate2static.prune.analyse import ChannelAnalysis
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.emission.layout import Layout
from gate2static.prune.rules import Dense, Rule

_WIDEST = 2**20
"""The largest alignment, which no layer is wider than."""


@dataclass(frozen=True, kw_only=True)
class ChannelPlan:
    """The physical channels that the static network computes.

    Attributes:
        analysis: Of the gated model.
        numberings: Node -> pool and views.
        needs: Node -> (S, C) 0/1.
        live: Node -> the pool channels that are computed.
        align: Layers keep a multiple of this many output channels.
    """

    analysis: ChannelAnalysis
    numberings: Mapping[fx.Node, Numbering]
    needs: Mapping[fx.Node, Tensor]
    live: Mapping[fx.Node, Ids]
    align: int

    @property
    def is_filled_up(self) -> bool:
        """Whether channels that only fill up are among those that are computed."""
        return self.align > 1

    @property
    def gated(self) -> GatedModel:
        """The model that is pruned."""
        return self.analysis.gated

    @property
    def rules(self) -> Mapping[fx.Node, Rule]:
        """Node -> its rule."""
        return self.analysis.rules

    def macs(self, nodes: Iterable[fx.Node] | None = None) -> int:
        """Returns the MACs per sample of the static network, or of some of its nodes."""
        chosen = self.rules if nodes is None else nodes
        return sum(self.rules[n].live_macs(self.live[n], self.numberings[n]) for n in chosen if self.rules[n].info.macs)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pruning does.

    Attributes:
        channels: The channels that are computed.
        layout: How they are laid out.
        dynamic: The names of the sizes of images that are free.
        parametrized: The layers whose weights are computed from other parameters; they have plain weights here.
    """

    channels: ChannelPlan
    layout: Layout
    dynamic: tuple[str, ...] = ()
    parametrized: tuple[str, ...] = ()


def check_align(align: int) -> None:
    """Refuses an alignment that layers cannot have.

    Raises:
        PruneError: It is not a positive integer.
    """
    require_count(align, name="align, the number of channels,", error=PruneError, most=_WIDEST)


def keep_needed(analysis: ChannelAnalysis, *, align: int = 1) -> ChannelPlan:
    """Keeps the channels that the outputs need.

    Args:
        analysis: The gated model's.
        align: Layers keep a multiple of this many output channels; channels that only fill up are computed, not read.
    """
    decisions = {unit: decision.cpu() for unit, decision in gate_decisions(analysis.gated).items()}
    numberings = analysis.number(decisions)
    # float64, so that products of many zeros and ones stay exact
    needs = analysis.need({unit: decision.double() for unit, decision in decisions.items()})
    # A pool channel lives where any stream needs it under any of its names.
    live = {node: np.unique(numberings[node].views[needs[node].numpy() > 0]) for node in analysis.rules}
    if align > 1:
        for node, rule in analysis.rules.items():
            if isinstance(rule, Dense):
                live[node] = _filled_up(rule, live[node], align)
    return ChannelPlan(analysis=analysis, numberings=numberings, needs=needs, live=live, align=align)


def _filled_up(rule: Dense, live: Ids, align: int) -> Ids:
    """Adds dead channels of a layer's streams until each has a multiple of `align`, or all it has."""
    filled = []
    for stream in range(rule.streams):
        ids = np.arange(rule.channels) + stream * rule.channels
        is_live = np.isin(ids, live)
        missing = -int(is_live.sum()) % align  # a stream with no live channel gets none
        filled.append(np.sort(np.concatenate([ids[is_live], ids[~is_live][:missing]])))
    return np.concatenate(filled)
