"""Grouped convolutions: a block is one group of one stream, and reads nothing but its own inputs.

A layer with groups must have as many outputs in every group, so blocks with equally many live outputs run together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_of, own_channels
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.emission.slicing import output_dim, picked, tensors_of, with_tensors
from gate2static.prune.rules.dense import weight_layer_dim
from gate2static.prune.rules.rule import Rule


class Grouped(Rule):
    """A convolution with groups."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        dim, module = weight_layer_dim(node, gated), module_of(gated, node, 0)
        if dim is None or getattr(module, "groups", 1) == 1:
            return None
        rule = cls(node, [read(rules[node.all_input_nodes[0]], (dim,))], node.meta["info"].shape[dim], (dim,))
        rule.groups = module.groups  # type: ignore[union-attr,assignment]
        return rule

    groups: int
    """Of the layer."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return own_channels(self.streams, self.channels)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        width = self.inputs[0].channels // self.groups
        return [any_of(need.unflatten(1, (self.groups, -1)), 2).expand(-1, -1, width).flatten(1)]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        return need.sum() * (self.info.macs // self.channels)

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        blocks, counts = np.unique(live // self._outputs, return_counts=True)
        parts = [self._together(blocks[counts == count], live, emitter) for count in np.unique(counts)]
        return Pool(tuple(parts), self.dim)

    def _together(self, blocks: Ids, live: Ids, emitter: Emitter) -> Part:
        """One layer of blocks with equally many live outputs."""
        ids = live[np.isin(live // self._outputs, blocks)]
        width = self.inputs[0].channels // self.groups
        streams, groups = np.divmod(blocks, self.groups)
        views = emitter.numbering(self.inputs[0]).views
        read_by = np.concatenate([views[s, g * width : (g + 1) * width] for s, g in zip(streams, groups, strict=True)])
        layers: list[Any] = [module_of(emitter.gated, self.node, s) for s in range(self.streams)]
        owners, channels = np.divmod(ids, self.channels)
        tensors = {name: picked(layers, name, owners, channels) for name in tensors_of(layers[0]) if name != "weight"}
        tensors["weight"] = self._weight(layers, blocks, ids)
        made = with_tensors(layers[0], tensors, in_channels=len(read_by), out_channels=len(ids), groups=len(blocks))
        return Part(emitter.module(self.node, made, (emitter.view(emitter.pool(self.inputs[0]), read_by),)), ids)

    def _weight(self, layers: Sequence[nn.Module], blocks: Ids, ids: Ids) -> Tensor:
        if output_dim(layers[0]) == 0:
            owners, channels = np.divmod(ids, self.channels)
            return picked(layers, "weight", owners, channels)
        # A transposed layer counts inputs first, and outputs within their group.
        width = self.inputs[0].channels // self.groups
        pieces = []
        for block in blocks.tolist():
            stream, group = divmod(block, self.groups)
            local = torch.from_numpy(ids[ids // self._outputs == block] % self._outputs)
            weight = tensors_of(layers[stream])["weight"][group * width : (group + 1) * width]
            pieces.append(weight.index_select(1, local.to(weight.device)))
        return torch.cat(pieces)

    @property
    def _outputs(self) -> int:
        """Output channels of a group."""
        return self.channels // self.groups
