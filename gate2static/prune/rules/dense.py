"""Dense layers: convolutions without groups and linear layers, gated or not.

Every stream has its own weights, so every stream's output channels are pool channels of their own: stream s has
s·C … s·C+C-1. A layer with any live output reads all its inputs; its MACs are proportional to its live outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.layer_kinds import channel_dim, layer_class
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import any_of
from gate2static.prune.analysis.nodes import module_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, own_channels
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.emission.slicing import output_dim, picked, select, tensors_of, with_tensors
from gate2static.prune.rules.rule import Matches, Rule

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense(Rule):
    """A convolution without groups, or a linear layer on the last dimension."""

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        dim = weight_layer_dim(node, earlier.gated)
        if dim is None or getattr(module_of(earlier.gated, node, 0), "groups", 1) != 1:
            return None
        source = access(earlier[node.all_input_nodes[0]], (dim,))
        return cls(node=node, inputs=(source,), channels=node.meta["info"].shape[dim], dims=(dim,))

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return own_channels(self.streams, self.channels)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [any_of(need, 1).expand(-1, self.inputs[0].channels)]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        return need.sum() * (self.info.macs // self.channels)

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        source = emitter.accessed(self.inputs[0])
        views = emitter.numbering(self.inputs[0]).views
        outputs = {stream: live[live // self.channels == stream] for stream in range(self.streams)}
        # Streams that read the same channels run as one layer, but not where moves become convolutions: a merged
        # layer's channels have one order, and streams that want another need a convolution each (docs/design.md).
        merge = not emitter.arrangement.layout.convolve_moves
        layers: dict[tuple[bytes, int], dict[int, Ids]] = {}
        # (input channels in the order they are read, stream or -1) -> stream -> the order of its weights' inputs
        for stream, ids in outputs.items():
            if len(ids):
                order = emitter.arrangement.sorted_positions(source, views[stream])
                key = (views[stream][order].tobytes(), -1 if merge else stream)
                layers.setdefault(key, {})[stream] = order
        parts = []
        for (read_ids, _), orders in layers.items():
            ids = emitter.arrangement.order(self, np.concatenate([outputs[stream] for stream in orders]))
            # The permutation that reading costs nothing for is done once, in the weights.
            view = emitter.view(source, np.frombuffer(read_ids, dtype=np.int64))
            for block in emitter.arrangement.in_blocks(self, ids):
                layer = self._slice(emitter.gated, block, orders)
                call = emitter.module(self.node, layer, (view,), streams=block // self.channels)
                parts.append(Part(call, block))
        return Parts(tuple(parts), self.dim)

    def _slice(self, gated: GatedModel, ids: Ids, orders: Mapping[int, Ids]) -> nn.Module:
        """Makes a layer with the output channels `ids`, which reads its inputs in each stream's `order`."""
        layers: list[Any] = [module_of(gated, self.node, stream) for stream in range(self.streams)]
        owners, channels = np.divmod(ids, self.channels)
        out_dim = output_dim(layers[0])
        tensors = {
            name: picked(layers, name, owners, channels, out_dim if name == "weight" else 0)
            for name in tensors_of(layers[0])
        }
        tensors["weight"] = _with_inputs_in_order(tensors["weight"], out_dim, owners, orders)
        inputs = len(next(iter(orders.values())))
        return with_tensors(layers[0], tensors, **channel_settings(layers[0], inputs, len(ids)))


def _with_inputs_in_order(weight: Tensor, out_dim: int, owners: Ids, orders: Mapping[int, Ids]) -> Tensor:
    """Permutes the inputs of a weight's slices: those of a stream's outputs by the stream's order."""
    permuted = weight
    for stream, order in orders.items():
        if np.array_equal(order, np.arange(len(order))):
            continue
        if permuted is weight:
            permuted = weight.clone()
        outputs = torch.from_numpy(np.flatnonzero(owners == stream)).to(weight.device)
        of_stream = select(weight.index_select(out_dim, outputs), 1 - out_dim, order)
        permuted.index_copy_(out_dim, outputs, of_stream)
    return permuted


def weight_layer_dim(node: fx.Node, gated: GatedModel) -> int | None:
    """Returns the channel dimension of a convolution or linear layer called on a batch; None for other nodes."""
    module: Any = module_of(gated, node, 0)
    kind = layer_class(module)
    shape = node.meta["info"].shape
    if kind not in (*CONVOLUTIONS, nn.Linear) or shape is None or len(node.args) + len(node.kwargs) != 1:
        return None
    if kind is not nn.Linear:
        # An unbatched input has one dimension less; weights beside the kernel must be sliced with the outputs.
        per_output = all(len(t) == module.out_channels for name, t in tensors_of(module).items() if name != "weight")
        if len(shape) != module.weight.dim() or not per_output:
            return None
    return channel_dim(module, len(shape))


def channel_settings(layer: nn.Module, inputs: int, outputs: int) -> dict[str, int]:
    """Returns the attributes in which a layer repeats its numbers of channels."""
    if isinstance(layer, nn.Linear):
        return {"in_features": inputs, "out_features": outputs}
    return {"in_channels": inputs, "out_channels": outputs}
