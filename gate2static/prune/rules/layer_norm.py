"""Layer norm and RMS norm: statistics over all channels of a stream, at one position.

Statistics do not depend on the order of the channels, so the norm reads them as they lie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import channel_dim, layer_class
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import any_of
from gate2static.prune.analysis.nodes import has_state, module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, own_channels, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.slicing import select, tensors_of, with_tensors
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerNorm(Rule):
    """A norm along the last dimension or, in its 2-d forms, the first after the batch.

    Attributes:
        has_own_state: Whether each stream has its own scale and shift.
    """

    has_own_state: bool

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        module: Any = module_of(earlier.gated, node, 0)
        shape = node.meta["info"].shape
        if layer_class(module) not in (nn.LayerNorm, nn.RMSNorm) or len(module.normalized_shape) != 1:
            return None
        dim = channel_dim(module, len(shape))
        return cls(
            node=node,
            inputs=(access(earlier[node.all_input_nodes[0]], (dim,)),),
            channels=shape[dim],
            dims=(dim,),
            has_own_state=has_state(earlier.gated, node),
        )

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        if self.has_own_state:
            return own_channels(self.streams, self.channels)
        # Streams that hold the same value share all channels of the result.
        values = unique_rows(inputs[0].views[:, None])
        return Numbering(values.views * self.channels + np.arange(self.channels), values.size * self.channels)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [any_of(need, 1).expand(-1, self.channels)]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        source = emitter.accessed(self.inputs[0])
        views = emitter.numbering(self.inputs[0]).views
        value_of_stream = emitter.numberings[self.node].views[:, 0] // self.channels
        parts = []
        for value in np.unique(live // self.channels):
            stream = int(np.flatnonzero(value_of_stream == value)[0])
            # Scale and shift are permuted instead of the channels.
            order = emitter.arrangement.sorted_positions(source, views[stream])
            layer: Any = module_of(emitter.gated, self.node, stream)
            sliced = with_tensors(layer, {name: select(t, 0, order) for name, t in tensors_of(layer).items()})
            view = emitter.view(source, views[stream][order])
            call = emitter.module(self.node, sliced, (view,), streams=(stream,))
            parts.append(Part(call, value * self.channels + order))
        return Parts(tuple(parts), self.dim)
