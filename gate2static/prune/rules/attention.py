"""Products of activations: matrix products, and attention as one operator.

Heads are *blocks*: the channel dimension that all operands have before their last two picks a pair of matrices. A block
that several streams have in common is computed once. Contracted dimensions are never channels: who needs a sum needs
all its terms. A free dimension of one operand may carry channels: then a block has as many columns as are live, and
blocks with equally many run together.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids, function_of
from gate2static.prune.analysis.channel_access import read_along
from gate2static.prune.analysis.channel_dims import Dims, axis, count
from gate2static.prune.analysis.nodes import argument
from gate2static.prune.analysis.numbering import Decisions, Numbering, any_reader, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool
from gate2static.prune.rules.rule import Rule

_PRODUCTS = (torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm", "__matmul__")


class MatrixProduct(Rule):
    """a @ b, both with the same batch dimensions."""

    shares_work = True

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        if node.target not in _PRODUCTS or len(node.args) != 2:
            return None
        a, b = (rules[n] for n in node.args)  # type: ignore[index]
        ndim = len(node.meta["info"].shape or ())
        if len(a.info.shape or ()) != ndim or len(b.info.shape or ()) != ndim:
            return None
        free = 1 if b.dims and ndim - 1 in b.dims else 0 if a.dims and ndim - 2 in a.dims else None
        return cls._of(node, (a, b), (), free, (ndim - 2, ndim - 1))

    @classmethod
    def _of(
        cls, node: fx.Node, operands: Sequence[Rule], masks: Sequence[Rule], free: int | None, free_dims: Dims
    ) -> Self | None:
        """The rule for `operands`, one of which may be `free` along its `free_dims`, and what is broadcast to them."""
        shape = node.meta["info"].shape
        ndim = len(shape)
        heads = tuple(
            d
            for d in range(ndim - 2)
            if any(d in (r.dims or ()) for r in operands) and all((r.info.shape or ())[d] == shape[d] for r in operands)
        )
        dims = heads if free is None else (*heads, free_dims[free])
        if ndim < 3 or not dims or len(heads) > 1:
            return None
        rule = cls(node, [], count(shape, dims), dims)
        pairs = [read_along(r, shape, dims, dims if i == free else heads) for i, r in enumerate([*operands, *masks])]
        readings, channels = zip(*pairs, strict=True)
        rule.inputs, rule.channels_of, rule.free = readings, channels, free
        return rule

    channels_of: Sequence[Ids]
    """For each operand: its channel, as it is read, for each channel of the result."""
    free: int | None
    """The operand with channels along a free dimension."""

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        return unique_rows(np.stack([n.views[:, c] for n, c in zip(inputs, self.channels_of, strict=True)], 2))

    def demand(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            torch.stack([any_reader(row, channels, reading.channels) for row in need])
            for reading, channels in zip(self.inputs, self.channels_of, strict=True)
        ]

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        assert numbering is not None
        return any_reader(need, numbering.views, numbering.size).sum() * (self.info.macs // self.channels)

    def emit(self, live: Ids, emitter: Emitter) -> Pool:
        rows = emitter.numberings[self.node].rows
        assert rows is not None
        block = self._blocks(rows[live])
        # Blocks with equally many channels run together, but whole values cannot stand side by side as blocks do.
        keys = [np.bincount(block)[block], *(rows[live, i] for i, r in enumerate(self.inputs) if not r.dims)]
        _, group = np.unique(np.stack(keys, 1), axis=0, return_inverse=True)
        parts = []
        for g in range(int(group.max()) + 1):
            member = group.ravel() == g
            parts.append(self._part(live[member][np.argsort(block[member], kind="stable")], rows, emitter))
        return Pool(tuple(parts), self.dim)

    def _blocks(self, rows: Ids) -> Ids:
        """Which block each of some pool channels belongs to."""
        fixed = [i for i in range(len(self.inputs)) if i != self.free]
        found: Ids = np.unique(rows[:, fixed], axis=0, return_inverse=True)[1].ravel().astype(np.int64)
        return found

    def _part(self, ids: Ids, rows: Ids, emitter: Emitter) -> Part:
        block = self._blocks(rows[ids])
        first = np.flatnonzero(np.diff(block, prepend=-1))
        operands: list[Any] = []
        for i, reading in enumerate(self.inputs):
            pool, wanted = emitter.pool(reading), rows[ids if i == self.free else ids[first], i]
            node = emitter.view(pool, wanted) if reading.dims else pool.whole(int(wanted[0]))
            if i == self.free and len(self._dims) > 1:
                node = _apart(emitter.graph, node, axis(reading.dims), self._dims[0], len(first))
            operands.append(node)
        result = self._call(operands, emitter)
        if self.free is not None and len(self._dims) > 1:
            result = _together(emitter.graph, result, self._dims[0], self.dim)
        return Part(result, ids)

    def _call(self, operands: Sequence[Any], emitter: Emitter) -> fx.Node:
        return emitter.graph.call_function(torch.matmul, tuple(operands))

    @property
    def _dims(self) -> Dims:
        assert self.dims is not None
        return self.dims


class Attention(MatrixProduct):
    """scaled_dot_product_attention(q, k, v, mask)."""

    @classmethod
    def match(cls, node: fx.Node, rules: Mapping[fx.Node, Rule], gated: GatedModel) -> Self | None:
        if node.target is not F.scaled_dot_product_attention or node.kwargs.get("enable_gqa"):
            return None
        operands = [rules[argument(node, i, name)] for i, name in enumerate(("query", "key", "value"))]
        mask = argument(node, 3, "attn_mask")
        ndim = len(node.meta["info"].shape or ())
        if any(len(r.info.shape or ()) != ndim for r in operands):
            return None
        free = 2 if operands[2].dims and ndim - 1 in operands[2].dims else None
        return cls._of(node, operands, () if mask is None else (rules[mask],), free, (ndim - 2, ndim - 2, ndim - 1))

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        assert numbering is not None
        assert numbering.rows is not None
        block = self._blocks(numbering.rows)
        columns = any_reader(need, numbering.views, numbering.size)
        heads = any_reader(columns, block, int(block.max()) + 1)
        return heads.sum() * self._head_macs + columns.sum() * self._column_macs

    def live_macs(self, live: Ids, numbering: Numbering) -> int:
        assert numbering.rows is not None
        heads = len(np.unique(self._blocks(numbering.rows[live]))) if len(live) else 0
        return heads * self._head_macs + len(live) * self._column_macs

    def _call(self, operands: Sequence[Any], emitter: Emitter) -> fx.Node:
        q, k, v, *mask = operands
        named = {"attn_mask": mask[0]} if mask else {}
        settings = {"is_causal": argument(self.node, 5, "is_causal", False), "scale": self.node.kwargs.get("scale")}
        return emitter.graph.call_function(function_of(self.node), (q, k, v), {**named, **settings})

    @property
    def _head_macs(self) -> int:
        """Of q·k for one block; of everything where the values have no channels."""
        depth, width = self._depth_and_width()
        whole = 0 if self.free is not None else width
        return self._unit * (depth + whole)

    @property
    def _column_macs(self) -> int:
        return 0 if self.free is None else self._unit

    @property
    def _unit(self) -> int:
        depth, width = self._depth_and_width()
        heads = self.channels if self.free is None else self.channels // width
        return self.info.macs // heads // (depth + width)

    def _depth_and_width(self) -> tuple[int, int]:
        return self.inputs[0].shape[-1], self.inputs[2].shape[-1]


def _apart(graph: fx.Graph, node: fx.Node, at: int, heads: int, blocks: int) -> fx.Node:
    """(…, blocks · channels, …) -> blocks where the other operands have theirs, channels along the free dimension."""
    node = graph.call_function(torch.unflatten, (node, at, [blocks, -1]))
    return node if at == heads else graph.call_function(torch.movedim, (node, at, heads))


def _together(graph: fx.Graph, node: fx.Node, heads: int, at: int) -> fx.Node:
    """The way back: blocks and their channels along one dimension, `at`."""
    if at != heads:
        node = graph.call_function(torch.movedim, (node, heads, at))
    return graph.call_function(torch.flatten, (node, at, at + 1))
