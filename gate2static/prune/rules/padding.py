"""Padding along channels with a constant: one more pool channel, which all streams have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.need import any_of, either
from gate2static.prune.analysis.nodes import argument, function_name
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Padding(Rule):
    """pad(in) along its channels alone, as in the shortcuts of CIFAR's ResNets.

    Attributes:
        before: The number of channels in front.
        constant: The value of the padding.
    """

    before: int
    constant: float

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        shape = node.meta["info"].shape
        if function_name(node) != "pad" or shape is None:
            return None
        source = earlier[node.all_input_nodes[0]]
        constant = argument(node, 3, "value")
        # Two widths per dimension, the last dimension first.
        widths = argument(node, 1, "pad")
        padded = {len(shape) - 1 - i // 2 for i, width in enumerate(widths) if width != 0}
        is_known = all(isinstance(w, int) and w >= 0 for w in widths) and not isinstance(constant, fx.Node)
        if argument(node, 2, "mode", "constant") != "constant" or not is_known or len(padded) != 1:
            return None
        (dim,) = padded
        if source.dims != (dim,):
            return None
        return cls(
            node=node,
            inputs=(access(source, source.dims),),
            channels=shape[dim],
            dims=source.dims,
            before=widths[2 * (len(shape) - 1 - dim)],
            constant=constant or 0.0,
        )

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        padding = inputs[0].size
        views = np.full((self.streams, self.channels), padding, dtype=np.int64)
        views[:, self._inside] = inputs[0].views
        return Numbering(views, padding + 1)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        of_source = need[:, self._inside].clone()
        # The padding is made like some channel, whose shape it takes: the first.
        of_source[:, :1] = either(of_source[:, :1], any_of(need, 1))
        return [of_source]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.append(np.arange(of_value.size - 1), -1))]

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        parts = emitter.accessed(self.inputs[0]).parts
        padding = emitter.numberings[self.node].size - 1
        if padding in live:
            like = emitter.graph.call_function(torch.narrow, (parts[0].node, self.dim, 0, 1))
            filled = emitter.graph.call_function(torch.full_like, (like, self.constant))
            parts = (*parts, Part(filled, np.array([padding])))
        return Parts(parts, self.dim)

    @property
    def _inside(self) -> slice:
        """The source's channels among those of the result."""
        return slice(self.before, self.before + self.inputs[0].channels)
