"""Dense layers: convolutions without groups and linear layers, gated or not.

Every stream has its own weights, so every stream's output channels are new pool channels. A layer with any live output
reads all its inputs; its MACs are proportional to its live outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.layers import layer_class
from gate2static.gates.model import GatedModel
from gate2static.prune.physical import Emitter, Part, Pool
from gate2static.prune.rules.rule import (
    Ids,
    Numbering,
    Rule,
    any_of,
    channels_along,
    channels_along_output,
    module_of,
    need_of,
)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Dense(Rule):
    """A convolution without groups, or a linear layer on the last dimension."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        module: Any = module_of(gated, node, 0)
        known = layer_class(module) in (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)
        if not known or getattr(module, "groups", 1) != 1 or len(node.args) + len(node.kwargs) != 1:
            return None
        source = rules[node.all_input_nodes[0]]
        ndim = len(source.info.shape or ())
        dim = ndim - 1 if isinstance(module, nn.Linear) else 1
        batched = isinstance(module, nn.Linear) or ndim == module.weight.dim()
        if not batched or source.dim not in (None, dim):
            return None
        return cls(node, [source], channels_along_output(node, dim), dim)

    def number(self, inputs: Sequence[Numbering], gated: GatedModel) -> Numbering:
        size = self.streams * self.channels
        return Numbering(np.arange(size).reshape(self.streams, self.channels), size)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        count = channels_along(self.inputs[0], self._dim)
        return [need_of(self.inputs[0], any_of(need, 1).expand(-1, count))]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        return need.sum() * (self.info.macs // self.channels)

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        source = emitter.channel_pool(self.inputs[0], self._dim)
        by_stream = {s: live[live // self.channels == s] for s in range(self.streams)}
        # Streams that read the same channels run as one layer.
        groups: dict[bytes, list[tuple[int, Ids]]] = {}
        for stream, ids in by_stream.items():
            if len(ids):
                read = emitter.stream_ids(self.inputs[0], self._dim, stream)
                order = emitter.sorted_ids(source, read)
                groups.setdefault(read[order].tobytes(), []).append((stream, order))
        parts = []
        for key, members in groups.items():
            ids = emitter.order(unit_end(self, emitter), np.concatenate([by_stream[s] for s, _ in members]))
            layer = self._slice(emitter.gated, ids, dict(members))
            view = emitter.view(source, np.frombuffer(key, dtype=np.int64))
            parts.append(Part(emitter.module(self.node.name, layer, (view,)), ids))
        return Pool(tuple(parts), self._dim)

    @property
    def _dim(self) -> int:
        assert self.dim is not None
        return self.dim

    def _slice(self, gated: GatedModel, ids: Ids, orders: Mapping[int, Ids]) -> nn.Module:
        """A layer with the output channels `ids`, reading its inputs in each stream's `order`."""
        modules: dict[int, Any] = {s: module_of(gated, self.node, s) for s in orders}
        sample = next(iter(modules.values()))
        outputs, inputs = (1, 0) if isinstance(sample, _TRANSPOSED) else (0, 1)
        owners, channels = np.divmod(ids, self.channels)
        by_owner = np.argsort(owners, kind="stable")
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        for stream in np.unique(owners):
            module, rows = modules[int(stream)], torch.from_numpy(channels[owners == stream])
            weight = module.weight.detach().index_select(outputs, rows.to(module.weight.device))
            weights.append(_reorder(weight, inputs, orders[int(stream)]))
            if module.bias is not None:
                biases.append(module.bias.detach()[rows.to(module.bias.device)])
        back = np.argsort(by_owner)
        weight = _reorder(torch.cat(weights, outputs), outputs, back)
        layer: nn.Module = _like(sample, weight.shape[inputs], len(ids))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if biases:
            layer.bias = nn.Parameter(_reorder(torch.cat(biases), 0, back), requires_grad=False)
        return layer


def _reorder(weight: Tensor, dim: int, order: Ids) -> Tensor:
    if np.array_equal(order, np.arange(len(order))):
        return weight
    return weight.index_select(dim, torch.from_numpy(order).to(weight.device))


def _like(layer: Any, inputs: int, outputs: int) -> Any:
    """A layer of the same kind and settings with other channel counts and weights still to be set."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, outputs, layer.bias is not None, device="meta").eval()
    settings = {k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    if isinstance(layer, _TRANSPOSED):
        settings["output_padding"] = layer.output_padding
    kind: Any = layer_class(layer)
    return kind(inputs, outputs, bias=layer.bias is not None, device="meta", **settings).eval()


def unit_end(rule: Rule, emitter: Emitter) -> Rule:
    """The gate that ends a layer's unit, or the layer itself: who reads the gate's channels decides their order."""
    found = rule
    while len(found.node.users) == 1 and not found.ends_unit:
        following = emitter.rules.get(next(iter(found.node.users)))
        if following is None or not following.keeps_numbers:
            break
        found = following
    return found
