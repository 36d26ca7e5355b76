"""Concatenation and stacking along channels: nothing is computed; the pool is the operands' pools side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import access
from gate2static.prune.analysis.channel_dims import axis, count
from gate2static.prune.analysis.nodes import argument
from gate2static.prune.analysis.numbering import Decisions, Numbering
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Rule):
    """cat([a, b, …], a channel dimension), or stack([a, b, …]), whose new dimension counts channels.

    Attributes:
        pieces: For each operand: the channels of the result that come from it.
    """

    pieces: tuple[Ids, ...]

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        is_stack = node.target is torch.stack
        tensors = argument(node, 0, "tensors")
        if not (is_stack or node.target is torch.cat) or not isinstance(tensors, list | tuple):
            return None
        shape = node.meta["info"].shape
        dim = argument(node, 1, "dim", 0) % len(shape)
        operands = [earlier[tensor] for tensor in tensors]
        dims = next((r.dims for r in operands if r.dims is not None and (is_stack or dim in r.dims)), None)
        if dims is None or dim in node.meta["info"].batch_dims:
            return None
        result_dims = dims
        if is_stack:
            # The new dimension counts the operands, and pushes later ones back.
            shifted = (d + (d >= dim) for d in dims)
            result_dims = tuple(sorted((*shifted, dim)))
        # (*result_dims) The result's channels, cut where the next operand begins.
        channels = count(shape, result_dims)
        numbers = np.arange(channels).reshape([shape[d] for d in result_dims])
        sizes = [1 if is_stack else operand.shape[dim] for operand in operands]
        pieces = np.split(numbers, np.cumsum(sizes)[:-1], axis=result_dims.index(dim))
        return cls(
            node=node,
            inputs=tuple(access(operand, dims) for operand in operands),
            channels=channels,
            dims=result_dims,
            pieces=tuple(piece.ravel() for piece in pieces),
        )

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        offsets = _offsets(inputs)
        views = np.empty((self.streams, self.channels), dtype=np.int64)
        for piece, operand, offset in zip(self.pieces, inputs, offsets[:-1], strict=True):
            views[:, piece] = operand.views + offset
        return Numbering(views, int(offsets[-1]))

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [need[:, torch.from_numpy(piece).to(need.device)] for piece in self.pieces]

    def origins(self, of_value: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        origins = []
        everything = np.arange(of_value.size)
        for number, (start, operand) in enumerate(zip(_offsets(inputs)[:-1], inputs, strict=True)):
            inside = (everything >= start) & (everything < start + operand.size)
            origins.append((number, np.where(inside, everything - start, -1)))
        return origins

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        # No copy: the operands' tensors hold the result's channels, until a reader needs them side by side.
        offsets = _offsets([emitter.numbering(source) for source in self.inputs])
        parts = []
        for source, start, end in zip(self.inputs, offsets[:-1], offsets[1:], strict=True):
            if not ((live >= start) & (live < end)).any():
                continue
            for part in emitter.accessed(source).parts:
                tensor = part.node
                # Stacking moves channels that were followed by other dimensions.
                before = axis(source.dims)
                if before != self.dim:
                    tensor = emitter.graph.call_function(torch.movedim, (tensor, before, self.dim))
                parts.append(Part(tensor, part.ids + start))
        return Parts(tuple(parts), self.dim)


def _offsets(inputs: Sequence[Numbering]) -> Ids:
    """(operands + 1,) Where each operand's pool begins in the result's, and where the last ends."""
    return np.cumsum([0, *(n.size for n in inputs)])
