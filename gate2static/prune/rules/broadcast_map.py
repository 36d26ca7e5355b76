"""Operators on tensors that line up channel for channel: sums, products, choices, and joins along other dimensions."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import Reading, read, read_along
from gate2static.prune.analysis.channel_dims import Dims, axis, count, others, permuted
from gate2static.prune.analysis.nodes import argument, function_name, tensor_inputs
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_reader, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule

_FUNCTIONS = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.floordiv, operator.mod,
    operator.gt, operator.ge, operator.lt, operator.le, operator.and_, operator.or_,
    torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum, torch.lerp, torch.where,
    torch.addcmul, torch.addcdiv, torch.masked_fill, torch.hypot, torch.atan2,
}  # fmt: skip
_METHODS = {
    "add", "sub", "mul", "div", "pow", "maximum", "minimum", "lerp", "where", "addcmul", "addcdiv", "masked_fill",
    "__add__", "__sub__", "__mul__", "__truediv__",
}  # fmt: skip


class Elementwise(Rule):
    """f(a, b, …)[c] = f(a[c], b[c], …); an operand may be broadcast along any channel dimension."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        operands = [rules[n] for n in tensor_inputs(node)]
        shape = node.meta["info"].shape
        if not _is_known(node) or shape is None or not any(r.dims for r in operands):
            return None
        # The value of masked_fill has no dimensions, so streams with values of their own cannot run together.
        if function_name(node) == "masked_fill" and len(operands) > 2:
            return None
        # The finest layout of all: the others are read along it.
        layouts = [tuple(d + len(shape) - len(r.info.shape or ()) for d in r.dims) for r in operands if r.dims]
        dims = max(layouts, key=lambda d: count(shape, d))
        joined = _joined_dim(node)
        if joined in dims or set(dims) & set(node.meta["info"].batch_dims):
            return None
        if not all(_lines_up(r.info.shape or (), shape, dims) for r in operands):
            return None
        rule = cls(node, [], count(shape, dims), dims)
        readings, channels = zip(*(read_along(r, shape, dims, dims) for r in operands), strict=True)
        plain = [read(rules[n]) for n in node.all_input_nodes if n not in tensor_inputs(node)]
        rule.inputs, rule.channels_of, rule.joined = (*readings, *plain), channels, joined
        return rule

    channels_of: Sequence[Ids]
    """For each operand: its channel, as it is read, for each channel of the result."""
    joined: int | None
    """The dimension along which the operands stand one behind the other."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        columns = [n.views[:, c] for n, c in zip(inputs, self.channels_of, strict=False)]
        return unique_rows(np.stack(columns, 2))

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        wanted = []
        for reading, channels in zip(self.inputs, self.channels_of, strict=False):
            plain = reading.channels == self.channels
            wanted.append(need if plain else torch.stack([any_reader(n, channels, reading.channels) for n in need]))
        whole = any_reader(need, np.arange(self.streams).repeat(self.channels), self.streams)[:, None]
        return [*wanted, *(whole for _ in self.inputs[len(wanted) :])]

    def origins(self, own: Numbering, inputs: Sequence[Numbering]) -> list[tuple[int, Ids]]:
        assert own.rows is not None
        return [(i, own.rows[:, i]) for i in range(len(self.channels_of))]

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        rows = emitter.numberings[self.node].rows
        assert rows is not None
        if emitter.lowering.share_elementwise or self.streams == 1:
            groups = self._split(emitter.order(self, live), rows, emitter)
        else:
            groups = emitter.by_streams(self, live)
        parts = [self._part(ids, rows, emitter) for ids in groups]
        return Pool(tuple(parts), self.dim)

    def _split(self, live: Ids, rows: Ids, emitter: Emitter) -> list[Ids]:
        """Channels of one set of readers stay apart where every operand already holds them as one tensor."""
        apart: list[Ids] = []
        together: list[Ids] = []
        pieces = emitter.in_blocks(self, live) if self.node in emitter.blocks else emitter.by_readers(self, live)
        for ids in pieces:
            whole = all(
                emitter.is_whole(emitter.pool(r), rows[ids, column])
                for column, r in enumerate(self.inputs[: len(self.channels_of)])
            )
            (apart if whole else together).append(ids)
        return [*apart, np.concatenate(together)] if together else apart

    def _part(self, ids: Ids, rows: Ids, emitter: Emitter) -> Part:
        operands: dict[fx.Node, Any] = {}
        for column, reading in enumerate(self.inputs):
            if column < len(self.channels_of):
                operands[reading.node] = self._operand(reading, rows[ids, column], emitter)
            else:
                operands[reading.node] = emitter.canonical(reading.rule, 0)
        if self.joined is None:
            return Part(emitter.call_like(self, 0, operands), ids)
        assert self.dims is not None
        labels = others(len(self.info.shape or ()), self.dims)
        labels.insert(self.dim, -1)
        tensors = [operands[n] for n in argument(self.node, 0, "tensors")]
        return Part(emitter.graph.call_function(torch.cat, (tensors, labels.index(self.joined))), ids)

    def _operand(self, reading: Reading, ids: Ids, emitter: Emitter) -> fx.Node:
        pool = emitter.pool(reading)
        if not reading.dims:
            # Nothing to pick: the whole value, which may differ from stream to stream.
            if len(np.unique(ids)) > 1:
                return self._beside(pool, ids, reading, emitter)
            return self._aligned(pool.whole(int(ids[0])), reading, emitter)
        same = reading.channels == 1 and len(np.unique(ids)) == 1
        return self._aligned(emitter.view(pool, ids[:1] if same else ids), reading, emitter)

    def _beside(self, pool: Pool, ids: Ids, reading: Reading, emitter: Emitter) -> fx.Node:
        """A value that is broadcast along the channels, but differs between streams: one copy a channel."""
        values = {v: self._aligned(pool.whole(v), reading, emitter, full=True) for v in np.unique(ids).tolist()}
        held = Pool(tuple(Part(node, np.array([v])) for v, node in values.items()), self.dim)
        return emitter.view(held, ids)

    def _aligned(self, node: fx.Node, reading: Reading, emitter: Emitter, full: bool = False) -> fx.Node:
        """An operand's physical tensor with its dimensions where those of the result's are, `full` with all of them."""
        assert self.dims is not None
        if not reading.shape and not full:
            return node
        ndim = len(self.info.shape or ())
        offset = ndim - len(reading.shape)
        labels: list[int] = [d + offset for d in others(len(reading.shape), reading.dims)]
        if reading.dims:
            labels.insert(axis(reading.dims), -1)
        for label in reversed(labels):
            if label in self.dims and (len(self.dims) > 1 or reading.dims):
                node = emitter.graph.call_function(torch.squeeze, (node, labels.index(label)))
                labels.remove(label)
            elif label in self.dims:
                labels[labels.index(label)] = -1
        wanted: list[int] = others(ndim, self.dims)
        wanted.insert(self.dim, -1)
        node = permuted(emitter.graph, node, [labels.index(w) for w in wanted if w in labels])
        first = 0 if full else next((i for i, w in enumerate(wanted) if w in labels), 0)
        for position in range(first, ndim - len(self.dims) + 1):
            if wanted[position] not in labels:
                node = emitter.graph.call_function(torch.unsqueeze, (node, position - first))
        return node


def _lines_up(own: Sequence[int], shape: Sequence[int], dims: Dims) -> bool:
    """Whether an operand has one channel or all of them along each channel dimension of the result."""
    offset = len(shape) - len(own)
    return all(d < offset or own[d - offset] in (1, shape[d]) for d in dims)


def _is_known(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _METHODS
    return node.op == "call_function" and (node.target in _FUNCTIONS or node.target is torch.cat)


def _joined_dim(node: fx.Node) -> int | None:
    """The dimension along which a node concatenates; None for element-wise operators."""
    if node.target is not torch.cat:
        return None
    return int(argument(node, 1, "dim", 0) % len(node.meta["info"].shape))
