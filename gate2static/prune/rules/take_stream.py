"""The hand-over from the backbone to a head: the head takes its task's stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.program.heads import take_stream
from gate2static.prune.analysis.channel_access import Same
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class TakeStream(Rule):
    """One row of the views: a value of S streams becomes one of a single stream."""

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        if node.target is not take_stream:
            return None
        source = earlier[node.all_input_nodes[0]]
        return cls(node=node, inputs=(Same(source, source.dims or ()),), channels=source.channels, dims=source.dims)

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        stream = self.info.streams[0]
        return Numbering(inputs[0].views[stream : stream + 1], inputs[0].size)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        # (1, C) -> (S, C): the other streams are not read here
        of_source = need.new_zeros((self.inputs[0].value.streams, self.channels))
        of_source[self.info.streams[0]] = need[0]
        return [of_source]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.arange(of_value.size))]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        return emitter.accessed(self.inputs[0])
