"""Group norm: statistics over groups of channels; the live groups of all streams run as one layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import layer_class
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import any_of
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, own_channels
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.slicing import picked, tensors_of, with_tensors
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupNorm(Rule):
    """A norm over groups of channels.

    Attributes:
        width: The number of channels in a group.
    """

    width: int

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        module: Any = module_of(earlier.gated, node, 0)
        if layer_class(module) is not nn.GroupNorm:
            return None
        return cls(
            node=node,
            inputs=(access(earlier[node.all_input_nodes[0]], (1,)),),
            channels=module.num_channels,
            dims=(1,),
            width=module.num_channels // module.num_groups,
        )

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return own_channels(self.streams, self.channels)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        # (S, C) -> (S, groups, width): a group's statistics need all its channels
        of_groups = any_of(need.unflatten(1, (-1, self.width)), 2)
        return [of_groups.expand(-1, -1, self.width).flatten(1)]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        groups = np.unique(live // self.width)
        ids = (groups[:, None] * self.width + np.arange(self.width)).ravel()
        # Stream s has s·C … s·C+C-1, so flat views (S · C) are indexed by the result's own numbers.
        read_ids = emitter.numbering(self.inputs[0]).views.ravel()[ids]
        view = emitter.view(emitter.accessed(self.inputs[0]), read_ids)
        layers: list[Any] = [module_of(emitter.gated, self.node, stream) for stream in range(self.streams)]
        owners, channels = np.divmod(ids, self.channels)
        tensors = {name: picked(layers, name, owners, channels) for name in tensors_of(layers[0])}
        layer = with_tensors(layers[0], tensors, num_channels=len(ids), num_groups=len(groups))
        return Parts((Part(emitter.module(self.node, layer, (view,), streams=owners), ids),), 1)
