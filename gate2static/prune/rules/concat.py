"""Concatenation and stacking along channels: nothing is computed, the pool is the union of the operands' pools."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import read
from gate2static.prune.analysis.channel_dims import axis, count
from gate2static.prune.analysis.nodes import argument
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule


class Concat(Rule):
    """cat([a, b, …], a channel dimension), or stack([a, b, …]), whose new dimension counts channels."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        stacked = node.target is torch.stack
        tensors = argument(node, 0, "tensors")
        if not (stacked or node.target is torch.cat) or not isinstance(tensors, list | tuple):
            return None
        shape = node.meta["info"].shape
        dim = argument(node, 1, "dim", 0) % len(shape)
        layouts = [r.dims for n in tensors if (r := rules[n]).dims is not None and (stacked or dim in r.dims)]
        if not layouts or dim in node.meta["info"].batch_dims:
            return None
        dims = layouts[0]
        out = tuple(sorted((*(d + (d >= dim) for d in dims), dim))) if stacked else dims
        rule = cls(node, [read(rules[n], dims) for n in tensors], count(shape, out), out)
        index = np.arange(rule.channels).reshape([shape[d] for d in out])
        sizes = [1 if stacked else rules[n].info.shape[dim] for n in tensors]  # type: ignore[index]
        rule.pieces = tuple(p.ravel() for p in np.split(index, np.cumsum(sizes)[:-1], axis=out.index(dim)))
        return rule

    pieces: tuple[Ids, ...]
    """Which of the channels come from each operand."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        offsets = _offsets(inputs)
        views = np.empty((self.streams, self.channels), dtype=np.int64)
        for piece, operand, offset in zip(self.pieces, inputs, offsets[:-1], strict=True):
            views[:, piece] = operand.views + offset
        return Numbering(views, int(offsets[-1]))

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need[:, torch.from_numpy(piece).to(need.device)] for piece in self.pieces]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        found, everything = [], np.arange(own.size)
        for number, (start, operand) in enumerate(zip(_offsets(inputs)[:-1], inputs, strict=True)):
            inside = (everything >= start) & (everything < start + operand.size)
            found.append((number, np.where(inside, everything - start, -1)))
        return found

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        offsets = _offsets([emitter.numbering(r) for r in self.inputs])
        parts = []
        for reading, start, end in zip(self.inputs, offsets[:-1], offsets[1:], strict=True):
            if not ((live >= start) & (live < end)).any():
                continue
            for part in emitter.pool(reading).parts:
                node = part.node
                # Stacking moves channels that were followed by other dimensions.
                before, after = axis(reading.dims), self.dim
                if before != after:
                    node = emitter.graph.call_function(torch.movedim, (node, before, after))
                parts.append(Part(node, part.ids + start))
        return Pool(tuple(parts), self.dim)


def _offsets(inputs: Sequence[Numbering]) -> Ids:
    return np.cumsum([0, *(n.size for n in inputs)])
