"""Norms whose statistics span channels: layer norm and RMS norm over all of a stream's, group norm over groups of them.

Statistics do not depend on the order of the channels, so a norm reads them as they lie.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import channel_dim, layer_class
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.nodes import has_state, module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_of, own_channels, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.emission.slicing import picked, select, tensors_of, with_tensors
from gate2static.prune.rules.rule import Rule


class LayerNorm(Rule):
    """A norm over the channels of one position, along the last dimension or, in its 2-d forms, the first."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        module: Any = module_of(gated, node, 0)
        shape = node.meta["info"].shape
        if layer_class(module) not in (nn.LayerNorm, nn.RMSNorm) or len(module.normalized_shape) != 1:
            return None
        dim = channel_dim(module, len(shape))
        rule = cls(node, [read(rules[node.all_input_nodes[0]], (dim,))], shape[dim], (dim,))
        rule.own = has_state(gated, node)
        return rule

    own: bool
    """Whether each stream has its own scale and shift."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        if self.own:
            return own_channels(self.streams, self.channels)
        values = unique_rows(inputs[0].views[:, None])
        return Numbering(values.views * self.channels + np.arange(self.channels), values.size * self.channels)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [any_of(need, 1).expand(-1, self.channels)]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        source, views = emitter.pool(self.inputs[0]), emitter.numbering(self.inputs[0]).views
        values = emitter.numberings[self.node].views[:, 0] // self.channels
        parts = []
        for value in np.unique(live // self.channels):
            stream = int(np.flatnonzero(values == value)[0])
            order = emitter.sorted_ids(source, views[stream])
            layer: Any = module_of(emitter.gated, self.node, stream)
            made = with_tensors(layer, {name: select(t, 0, order) for name, t in tensors_of(layer).items()})
            view = emitter.view(source, views[stream][order])
            parts.append(Part(emitter.module(self.node, made, (view,)), value * self.channels + order))
        return Pool(tuple(parts), self.dim)


class GroupNorm(Rule):
    """A norm over groups of channels; the live groups of all streams run as one layer."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        module: Any = module_of(gated, node, 0)
        if layer_class(module) is not nn.GroupNorm:
            return None
        rule = cls(node, [read(rules[node.all_input_nodes[0]], (1,))], module.num_channels, (1,))
        rule.width = module.num_channels // module.num_groups
        return rule

    width: int
    """Channels of a group."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return own_channels(self.streams, self.channels)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [any_of(need.unflatten(1, (-1, self.width)), 2).expand(-1, -1, self.width).flatten(1)]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        blocks = np.unique(live // self.width)
        ids = (blocks[:, None] * self.width + np.arange(self.width)).ravel()
        view = emitter.view(emitter.pool(self.inputs[0]), emitter.numbering(self.inputs[0]).views.ravel()[ids])
        layers: list[Any] = [module_of(emitter.gated, self.node, s) for s in range(self.streams)]
        owners, channels = np.divmod(ids, self.channels)
        tensors = {name: picked(layers, name, owners, channels) for name in tensors_of(layers[0])}
        made = with_tensors(layers[0], tensors, num_channels=len(ids), num_groups=len(blocks))
        return Pool((Part(emitter.module(self.node, made, (view,)), ids),), 1)
