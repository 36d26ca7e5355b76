"""Padding along channels with a constant: one more pool channel, which all streams have in common."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.nodes import argument, function_name
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_of, either
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule


class Padding(Rule):
    """pad(in) along its channels alone, as in the shortcuts of CIFAR's ResNets."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        shape = node.meta["info"].shape
        if function_name(node) != "pad" or shape is None:
            return None
        source, widths = rules[node.all_input_nodes[0]], argument(node, 1, "pad")
        mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value")
        padded = [len(shape) - 1 - i // 2 for i, width in enumerate(widths) if width != 0]
        known = all(isinstance(w, int) and w >= 0 for w in widths) and not isinstance(value, fx.Node)
        if mode != "constant" or not known or not padded or source.dims != (padded[0],) or set(padded) != {padded[0]}:
            return None
        made = cls(node, [read(source, source.dims)], shape[padded[0]], source.dims)
        made.before, made.value = widths[2 * (len(shape) - 1 - padded[0])], value or 0.0
        return made

    before: int
    """Channels in front."""
    value: float
    """Of the padding."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        views = np.full((self.streams, self.channels), inputs[0].size, dtype=np.int64)
        views[:, self._inside] = inputs[0].views
        return Numbering(views, inputs[0].size + 1)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        wanted = need[:, self._inside].clone()
        # The padding is made like some channel.
        wanted[:, :1] = either(wanted[:, :1], any_of(need, 1))
        return [wanted]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        return [(0, np.append(np.arange(own.size - 1), -1))]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        parts, padding = emitter.pool(self.inputs[0]).parts, emitter.numberings[self.node].size - 1
        if padding in live:
            like = emitter.graph.call_function(torch.narrow, (parts[0].node, self.dim, 0, 1))
            filled = emitter.graph.call_function(torch.full_like, (like, self.value))
            parts = (*parts, Part(filled, np.array([padding])))
        return Pool(parts, self.dim)

    @property
    def _inside(self) -> slice:
        """The source's channels among those of the result."""
        return slice(self.before, self.before + self.inputs[0].channels)
