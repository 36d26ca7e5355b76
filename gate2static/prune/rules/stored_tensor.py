"""Parameters and buffers that are read by name: one opaque value per stream, but one where equal buffers agree."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.nodes import has_state, owner_of
from gate2static.prune.analysis.numbering import Decisions, Numbering, one_value, own_channels
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredTensor(Rule):
    """A parameter or buffer read by name."""

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        return cls(node=node, inputs=(), channels=1, dims=None) if node.op == "get_attr" else None

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        if not has_state(gated, self.node):
            return one_value(self.streams)
        first, *others = (self._tensor(gated, stream) for stream in range(self.streams))
        # Parameters may be trained apart; buffers that are equal now stay so.
        is_one = not isinstance(first, nn.Parameter) and all(torch.equal(first, other) for other in others)
        return one_value(self.streams) if is_one else own_channels(self.streams, 1)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return []

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        # Pool channel s is stream s's tensor; where there is only one, it has number 0.
        parts = []
        for stream in live.tolist():
            tensor = self._tensor(emitter.gated, stream)
            parts.append(Part(self._stored(tensor, stream, emitter), np.array([stream])))
        return Parts(tuple(parts), None)

    def _stored(self, tensor: Tensor, stream: int, emitter: Emitter) -> fx.Node:
        if not isinstance(tensor, nn.Parameter):
            return emitter.constant(tensor.detach().clone())
        trained = nn.Parameter(tensor.detach().clone(), requires_grad=False)
        name = emitter.keep(trained, self.node, (stream,))
        emitter.training.note_tensor(tensor, self.node, name)
        return emitter.graph.get_attr(name)

    def _tensor(self, gated: GatedModel, stream: int) -> Tensor:
        tensor: Tensor = operator.attrgetter(str(self.node.target))(owner_of(gated, self.node, stream))
        return tensor
