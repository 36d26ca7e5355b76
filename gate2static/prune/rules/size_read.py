"""Reads of a tensor's size, dtype or device: constants, but for what depends on the batch."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.annotate import BATCHES, info
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.nodes import argument, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering, one_value
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class SizeRead(Rule):
    """A tensor's size or a part of it, its dtype or its device."""

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        if info(node).shape is not None:
            return None
        if info(node).constant is not None or node.target == "size" or _is_shape(node):
            return cls(node=node, inputs=(), channels=1, dims=None)
        sources = [earlier[n] for n in node.all_input_nodes]
        if node.target is operator.getitem and len(sources) == 1 and isinstance(sources[0], SizeRead):
            return cls(node=node, inputs=(access(sources[0]),), channels=1, dims=None)
        return None

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return one_value(self.streams)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need for _ in self.inputs]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        return Parts((Part(self._size(emitter), np.zeros(1, dtype=np.int64)),), None)

    def _size(self, emitter: Emitter) -> Any:
        if self.info.constant is not None:
            return self._constant(emitter)
        if self.inputs:
            return emitter.accessed(self.inputs[0]).whole(0)[self.node.args[1]]
        source = info(tensor_inputs(self.node)[0])
        assert source.shape is not None
        # Sizes that follow the batch are multiples of it; the static network reads it from its first input.
        batch = emitter.graph.call_method("size", (emitter.inputs[0], 0))
        sizes: list[Any] = list(source.shape)
        for d in source.batch_dims:
            sizes[d] = emitter.graph.call_function(operator.mul, (batch, sizes[d] // BATCHES[0]))
        dim = None if _is_shape(self.node) else argument(self.node, 1, "dim")
        return tuple(sizes) if dim is None else sizes[dim]

    def _constant(self, emitter: Emitter) -> Any:
        """Emits the value read while tracing; a device or dtype is read from an input that had the same then."""
        constant = self.info.constant
        placeholders = emitter.gated.program.graph.find_nodes(op="placeholder")
        for placeholder, emitted in zip(placeholders, emitter.inputs, strict=True):
            if isinstance(constant, torch.device):
                return emitter.graph.call_function(getattr, (emitted, "device"))
            if isinstance(constant, torch.dtype) and info(placeholder).dtype == constant:
                return emitter.graph.call_function(getattr, (emitted, "dtype"))
        return constant


def _is_shape(node: fx.Node) -> bool:
    return node.target is getattr and bool(node.args[1] == "shape")
