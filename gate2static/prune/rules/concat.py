"""Concatenation along channels: nothing is computed, the pool is the union of the operands' pools."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.prune.physical import Emitter, Part, Pool
from gate2static.prune.rules.rule import Ids, Numbering, Rule, argument, as_channels, channels_along, need_of


class Concat(Rule):
    """cat([a, b, …], channel dimension)."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        if node.target not in (torch.cat, torch.concat):
            return None
        tensors = argument(node, 0, "tensors")
        if not isinstance(tensors, list | tuple):
            return None
        shape = node.meta["info"].shape
        dim = argument(node, 1, "dim", 0) % len(shape)
        operands = [rules[n] for n in tensors]
        if dim == 0 or any(r.dim not in (None, dim) for r in operands) or all(r.dim is None for r in operands):
            return None
        return cls(node, operands, shape[dim], dim)

    def number(self, inputs: Sequence[Numbering], gated: GatedModel) -> Numbering:
        offsets = self._offsets(inputs)
        views = [as_channels(r, n, self._dim) + o for r, n, o in zip(self.inputs, inputs, offsets[:-1], strict=True)]
        return Numbering(np.concatenate(views, 1), int(offsets[-1]))

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        pieces = need.split([channels_along(r, self._dim) for r in self.inputs], 1)
        return [need_of(r, piece) for r, piece in zip(self.inputs, pieces, strict=True)]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        offsets = self._offsets([emitter.numberings[r.node] for r in self.inputs])
        parts = []
        for rule, start, end in zip(self.inputs, offsets[:-1], offsets[1:], strict=True):
            if ((live >= start) & (live < end)).any():
                parts += [Part(p.node, p.ids + start) for p in emitter.channel_pool(rule, self._dim).parts]
        return Pool(tuple(parts), self._dim)

    def _offsets(self, inputs: Sequence[Numbering]) -> Ids:
        sizes = [
            n.size * (channels_along(r, self._dim) if r.dim is None else 1)
            for r, n in zip(self.inputs, inputs, strict=True)
        ]
        return np.cumsum([0, *sizes])

    @property
    def _dim(self) -> int:
        assert self.dim is not None
        return self.dim
