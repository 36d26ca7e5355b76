"""Grouped convolutions: each group of each stream is a small layer that reads nothing but its own inputs.

A layer with groups must have as many outputs in every group, so groups with equally many live outputs run together.
A *stream group* is one group of one stream; it has the number stream · groups + group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import any_of
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, own_channels
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.slicing import output_dim, picked, tensors_of, with_tensors
from gate2static.prune.rules.dense import weight_layer_dim
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouped(Rule):
    """A convolution with groups.

    Attributes:
        groups: The number of groups of the user's layer.
    """

    groups: int

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        dim = weight_layer_dim(node, earlier.gated)
        groups = getattr(module_of(earlier.gated, node, 0), "groups", 1)
        if dim is None or groups == 1:
            return None
        source = access(earlier[node.all_input_nodes[0]], (dim,))
        return cls(node=node, inputs=(source,), channels=node.meta["info"].shape[dim], dims=(dim,), groups=groups)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return own_channels(self.streams, self.channels)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        # (S, outputs) -> (S, groups, 1) -> (S, inputs): any output of a group reads all inputs of the group
        of_groups = any_of(need.unflatten(1, (self.groups, -1)), 2)
        return [of_groups.expand(-1, -1, self._inputs_per_group).flatten(1)]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        return need.sum() * (self.info.macs // self.channels)

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        stream_groups, counts = np.unique(live // self._outputs_per_group, return_counts=True)
        parts = [self._part(stream_groups[counts == count], live, emitter) for count in np.unique(counts)]
        return Parts(tuple(parts), self.dim)

    def _part(self, stream_groups: Ids, live: Ids, emitter: Emitter) -> Part:
        """Emits one layer of stream groups with equally many live outputs."""
        ids = live[np.isin(live // self._outputs_per_group, stream_groups)]
        width = self._inputs_per_group
        views = emitter.numbering(self.inputs[0]).views
        read_ids = []
        for stream, group in zip(*np.divmod(stream_groups, self.groups), strict=True):
            read_ids.append(views[stream, group * width : (group + 1) * width])
        inputs = np.concatenate(read_ids)
        # Bias and the like are counted by outputs; the weight also lies by groups.
        layers: list[Any] = [module_of(emitter.gated, self.node, stream) for stream in range(self.streams)]
        owners, channels = np.divmod(ids, self.channels)
        tensors = {name: picked(layers, name, owners, channels) for name in tensors_of(layers[0]) if name != "weight"}
        tensors["weight"] = self._weight(layers, stream_groups, ids)
        layer = with_tensors(
            layers[0], tensors, in_channels=len(inputs), out_channels=len(ids), groups=len(stream_groups)
        )
        view = emitter.view(emitter.accessed(self.inputs[0]), inputs)
        return Part(emitter.module(self.node, layer, (view,), streams=owners), ids)

    def _weight(self, layers: Sequence[nn.Module], stream_groups: Ids, ids: Ids) -> Tensor:
        if output_dim(layers[0]) == 0:
            owners, channels = np.divmod(ids, self.channels)
            return picked(layers, "weight", owners, channels)
        # A transposed layer's weight is (inputs of all groups, outputs of one group, …).
        width = self._inputs_per_group
        weights = []
        for stream_group in stream_groups.tolist():
            stream, group = divmod(stream_group, self.groups)
            outputs = ids[ids // self._outputs_per_group == stream_group] % self._outputs_per_group
            weight = tensors_of(layers[stream])["weight"][group * width : (group + 1) * width]
            weights.append(weight.index_select(1, torch.from_numpy(outputs).to(weight.device)))
        return torch.cat(weights)

    @property
    def _inputs_per_group(self) -> int:
        return self.inputs[0].channels // self.groups

    @property
    def _outputs_per_group(self) -> int:
        return self.channels // self.groups
