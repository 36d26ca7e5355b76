"""Element-wise operators on tensors that line up channel for channel: additions, products, activations of several."""

import operator
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.prune.physical import Emitter, Part, Pool
from gate2static.prune.rules.rule import (
    Ids,
    Numbering,
    Rule,
    any_of,
    as_channels,
    channels_along,
    need_of,
    tensor_inputs,
    unique_rows,
)

_FUNCTIONS = {
    operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul, torch.div,
    torch.maximum, torch.minimum, torch.lerp, torch.where,
}  # fmt: skip
_METHODS = {"add", "sub", "mul", "div", "maximum", "minimum", "__add__", "__sub__", "__mul__", "__truediv__"}


class Elementwise(Rule):
    """f(a, b, …)[c] = f(a[c], b[c], …); an operand with one channel is broadcast."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        known = (node.op == "call_function" and node.target in _FUNCTIONS) or (
            node.op == "call_method" and node.target in _METHODS
        )
        operands = [rules[n] for n in tensor_inputs(node)]
        if not known or len(operands) != len(node.all_input_nodes):
            return None
        ndim = len(node.meta["info"].shape or ())
        # Counted from the end, as broadcasting does.
        dims = {r.dim - len(r.info.shape or ()) for r in operands if r.dim is not None}
        if len(dims) != 1:
            return None
        dim = ndim + dims.pop()
        if any(len(r.info.shape or ()) != ndim for r in operands):
            return None
        channels: int = node.meta["info"].shape[dim]
        if any(channels_along(r, dim) not in (1, channels) for r in operands):
            return None
        return cls(node, operands, channels, dim)

    def number(self, inputs: Sequence[Numbering], gated: GatedModel) -> Numbering:
        shape = (self.streams, self.channels)
        columns = [
            np.broadcast_to(as_channels(r, n, self._dim), shape).ravel()
            for r, n in zip(self.inputs, inputs, strict=True)
        ]
        return unique_rows(np.stack(columns, 1), shape)

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            need_of(r, any_of(need, 1) if channels_along(r, self._dim) < self.channels else need) for r in self.inputs
        ]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        rows = emitter.numberings[self.node].rows
        assert rows is not None
        parts = [self._part(ids, rows, emitter) for ids in self._split(emitter.order(self, live), rows, emitter)]
        return Pool(tuple(parts), self._dim)

    def _split(self, live: Ids, rows: Ids, emitter: Emitter) -> list[Ids]:
        """Channels of one set of readers stay apart where every operand already holds them as one tensor."""
        apart: list[Ids] = []
        together: list[Ids] = []
        for ids in emitter.by_readers(self, live):
            whole = all(
                emitter.is_whole(emitter.channel_pool(r, self._dim), rows[ids, column])
                for column, r in enumerate(self.inputs)
            )
            (apart if whole else together).append(ids)
        return [*apart, np.concatenate(together)] if together else apart

    def _part(self, ids: Ids, rows: Ids, emitter: Emitter) -> Part:
        operands = {r.node: self._operand(r, rows[ids, column], emitter) for column, r in enumerate(self.inputs)}
        return Part(emitter.call_like(self, 0, operands), ids)

    def _operand(self, rule: Rule, ids: Ids, emitter: Emitter) -> fx.Node:
        pool = emitter.channel_pool(rule, self._dim)
        same = channels_along(rule, self._dim) == 1 and len(np.unique(ids)) == 1
        return emitter.view(pool, ids[:1] if same else ids)

    @property
    def _dim(self) -> int:
        assert self.dim is not None
        return self.dim
