"""Dense layers: convolutions without groups and linear layers, gated or not.

Every stream has its own weights, so every stream's output channels are new pool channels. A layer with any live output
reads all its inputs; its MACs are proportional to its live outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import channel_dim, layer_class
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_of, own_channels
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.emission.slicing import output_dim, picked, select, tensors_of, with_tensors
from gate2static.prune.rules.rule import Rule

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


class Dense(Rule):
    """A convolution without groups, or a linear layer on the last dimension."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        dim = weight_layer_dim(node, gated)
        if dim is None or getattr(module_of(gated, node, 0), "groups", 1) != 1:
            return None
        source = read(rules[node.all_input_nodes[0]], (dim,))
        return cls(node, [source], node.meta["info"].shape[dim], (dim,))

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return own_channels(self.streams, self.channels)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [any_of(need, 1).expand(-1, self.inputs[0].channels)]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        return need.sum() * (self.info.macs // self.channels)

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        source, views = emitter.pool(self.inputs[0]), emitter.numbering(self.inputs[0]).views
        by_stream = {s: live[live // self.channels == s] for s in range(self.streams)}
        # Streams that read the same channels run as one layer.
        groups: dict[tuple[bytes, int], list[tuple[int, Ids]]] = {}
        for stream, ids in by_stream.items():
            if len(ids):
                order = emitter.sorted_ids(source, views[stream])
                key = views[stream][order].tobytes(), -1 if emitter.lowering.merge_layers else stream
                groups.setdefault(key, []).append((stream, order))
        parts = []
        for (wanted, _), members in groups.items():
            ids = emitter.order(unit_end(self, emitter), np.concatenate([by_stream[s] for s, _ in members]))
            view = emitter.view(source, np.frombuffer(wanted, dtype=np.int64))
            for block in emitter.in_blocks(self, ids):
                layer = self._slice(emitter.gated, block, dict(members))
                parts.append(Part(emitter.module(self.node, layer, (view,)), block))
        return Pool(tuple(parts), self.dim)

    def _slice(self, gated: GatedModel, ids: Ids, orders: Mapping[int, Ids]) -> nn.Module:
        """A layer with the output channels `ids`, reading its inputs in each stream's `order`."""
        layers: list[Any] = [module_of(gated, self.node, s) for s in range(self.streams)]
        owners, channels = np.divmod(ids, self.channels)
        outputs = output_dim(layers[0])
        tensors = {
            name: picked(layers, name, owners, channels, outputs if name == "weight" else 0)
            for name in tensors_of(layers[0])
        }
        weight = tensors["weight"]
        for stream, order in orders.items():
            rows = np.flatnonzero(owners == stream)
            if not np.array_equal(order, np.arange(len(order))):
                weight = weight.clone() if weight is tensors["weight"] else weight
                index = torch.from_numpy(rows).to(weight.device)
                mine = select(weight.index_select(outputs, index), 1 - outputs, order)
                weight.index_copy_(outputs, index, mine)
        tensors["weight"] = weight
        inputs = len(next(iter(orders.values())))
        return with_tensors(layers[0], tensors, **channel_settings(layers[0], inputs, len(ids)))


def weight_layer_dim(node: fx.Node, gated: GatedModel) -> int | None:
    """The channel dimension of a call of a convolution or linear layer on a batch; None for other nodes."""
    module: Any = module_of(gated, node, 0)
    kind, shape = layer_class(module), node.meta["info"].shape
    if kind not in (*CONVOLUTIONS, nn.Linear) or shape is None or len(node.args) + len(node.kwargs) != 1:
        return None
    if kind is not nn.Linear:
        per_output = all(len(t) == module.out_channels for name, t in tensors_of(module).items() if name != "weight")
        if len(shape) != module.weight.dim() or not per_output:
            return None
    return channel_dim(module, len(shape))


def channel_settings(layer: nn.Module, inputs: int, outputs: int) -> dict[str, int]:
    """The attributes in which a layer repeats its numbers of channels."""
    if isinstance(layer, nn.Linear):
        return {"in_features": inputs, "out_features": outputs}
    return {"in_channels": inputs, "out_channels": outputs}


def unit_end(rule: Rule, emitter: Emitter) -> Rule:
    """The gate that ends a layer's unit, or the layer itself: who reads the gate's channels decides their order."""
    found = rule
    while len(found.node.users) == 1 and not found.ends_unit:
        following = emitter.rules.get(next(iter(found.node.users)))
        if following is None or not following.keeps_numbers:
            break
        found = following
    return found
