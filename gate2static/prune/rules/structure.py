"""Nodes that compute nothing on channels: inputs, stored tensors, identities, reads of sizes, hand-over to heads."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.annotate import BATCHES, info
from gate2static.program.layer_kinds import has_own_forward, layer_class
from gate2static.program.program import take_stream
from gate2static.prune.analysis.channel_access import Same, read
from gate2static.prune.analysis.nodes import argument, has_state, module_of, owner_of, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering, own_channels
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule

_IDENTITIES = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
_STOCHASTIC = {"StochasticDepth", "DropPath", "DropBlock2d", "DropBlock3d"}


def one_value(streams: int) -> Numbering:
    """An opaque value that is the same for all streams."""
    return Numbering(np.zeros((streams, 1), dtype=np.int64), 1)


class Placeholder(Rule):
    """An input of the network: one opaque value for all streams."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        return cls(node, [], 1, None) if node.op == "placeholder" else None

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return one_value(self.streams)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return []

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        placeholder = next(p for p in emitter.inputs if p.target == self.node.name)
        return Pool((Part(placeholder, np.zeros(1, dtype=np.int64)),), None)


class StoredTensor(Rule):
    """A parameter or buffer read by name: a value a stream, but one where the streams' buffers are equal."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        return cls(node, [], 1, None) if node.op == "get_attr" else None

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        if not has_state(gated, self.node):
            return one_value(self.streams)
        first, *more = (self._value(gated, stream) for stream in range(self.streams))
        same = not isinstance(first, nn.Parameter) and all(torch.equal(first, value) for value in more)
        return one_value(self.streams) if same else own_channels(self.streams, 1)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return []

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        parts = []
        for stream in live.tolist():
            value = self._value(emitter.gated, stream)
            trained = isinstance(value, nn.Parameter)
            parts.append(Part(emitter.constant(value.detach().clone(), trained=trained), np.array([stream])))
        return Pool(tuple(parts), None)

    def _value(self, gated: GatedModel, stream: int) -> Tensor:
        value: Tensor = operator.attrgetter(str(self.node.target))(owner_of(gated, self.node, stream))
        return value


class Identity(Rule):
    """Identities and what is one in eval mode: dropout and stochastic depth."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        module = module_of(gated, node, 0)
        kind = type(module)
        stochastic = kind.__module__.startswith(("timm.", "torchvision.")) and kind.__name__ in _STOCHASTIC
        if module is None or has_own_forward(module) or not (stochastic or layer_class(module) in _IDENTITIES):
            return None
        source = rules[node.all_input_nodes[0]]
        return cls(node, [Same(source, source.dims or ())], source.channels, source.dims)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return inputs[0]

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(own.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        return emitter.pool(self.inputs[0])


class TakeStream(Rule):
    """Where a head picks up its task's stream: one row of the views."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        if node.target is not take_stream:
            return None
        source = rules[node.all_input_nodes[0]]
        return cls(node, [Same(source, source.dims or ())], source.channels, source.dims)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        stream = self.info.streams[0]
        return Numbering(inputs[0].views[stream : stream + 1], inputs[0].size)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        out = need.new_zeros((self.inputs[0].rule.streams, self.channels))
        out[self.info.streams[0]] = need[0]
        return [out]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(own.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        return emitter.pool(self.inputs[0])


class SizeRead(Rule):
    """A tensor's size, or a part of it, its type or device: constants but for what the network's input tells."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        if info(node).shape is not None:
            return None
        constant = info(node).constant
        if constant is not None or node.target == "size" or _is_shape(node):
            return cls(node, [], 1, None)
        sources = [rules[n] for n in node.all_input_nodes]
        part = node.target is operator.getitem and len(sources) == 1 and isinstance(sources[0], SizeRead)
        return cls(node, [read(sources[0])], 1, None) if part else None

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return one_value(self.streams)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need for _ in self.inputs]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        return Pool((Part(self._value(emitter), np.zeros(1, dtype=np.int64)),), None)

    def _value(self, emitter: Emitter) -> Any:
        if self.info.constant is not None:
            return self._constant(emitter)
        if self.inputs:
            return emitter.pool(self.inputs[0]).whole(0)[self.node.args[1]]
        source = info(tensor_inputs(self.node)[0])
        assert source.shape is not None
        batch = emitter.graph.call_method("size", (emitter.inputs[0], 0))
        sizes: list[Any] = list(source.shape)
        for d in source.batch_dims:
            sizes[d] = emitter.graph.call_function(operator.mul, (batch, sizes[d] // BATCHES[0]))
        dim = None if _is_shape(self.node) else argument(self.node, 1, "dim")
        return tuple(sizes) if dim is None else sizes[dim]

    def _constant(self, emitter: Emitter) -> Any:
        """What was read while tracing, or read again from an input that had the same type or device then."""
        constant = self.info.constant
        for placeholder, given in zip(
            emitter.gated.program.graph.find_nodes(op="placeholder"), emitter.inputs, strict=True
        ):
            if isinstance(constant, torch.device):
                return emitter.graph.call_function(getattr, (given, "device"))
            if isinstance(constant, torch.dtype) and info(placeholder).dtype == constant:
                return emitter.graph.call_function(getattr, (given, "dtype"))
        return constant


def _is_shape(node: fx.Node) -> bool:
    return node.target is getattr and bool(node.args[1] == "shape")
