"""Inputs of the network: one opaque value, the same for all streams."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.numbering import Decisions, Numbering, one_value
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Placeholder(Rule):
    """An input of the network."""

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        return cls(node=node, inputs=(), channels=1, dims=None) if node.op == "placeholder" else None

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return one_value(self.streams)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return []

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        placeholder = next(p for p in emitter.inputs if p.target == self.node.name)
        return Parts((Part(placeholder, np.zeros(1, dtype=np.int64)),), None)
