"""Matrix products of activations.

The channel dimension that all operands have before their last two counts *pairs*: each of its channels is a pair of
matrices, such as the heads of attention. A pair that several streams have in common is multiplied once. Contracted
dimensions are never channels: a needed sum needs all its terms. A free dimension of one operand may carry channels:
then a pair has as many columns as are live, and pairs with equally many run together.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import access_broadcast
from gate2static.prune.analysis.channel_dims import Dims, axis, count
from gate2static.prune.analysis.need import any_reader
from gate2static.prune.analysis.numbering import Decisions, Numbering, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Parts
from gate2static.prune.rules.rule import Matches, Rule

_PRODUCTS = (torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm", "__matmul__")


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixProduct(Rule):
    """a @ b, both with the same batch dimensions.

    The sources of its pool channels are the operands' channels, one column per operand.

    Attributes:
        channels_of: For each operand: (C,) its channel, as it is read, for each channel of the result.
        free: The operand with channels along a free dimension; None where there is none.
    """

    channels_of: tuple[Ids, ...]
    free: int | None

    @property
    def shares_work(self) -> bool:
        return True

    @classmethod
    def match(cls, node: fx.Node, earlier: Matches) -> Self | None:
        if node.target not in _PRODUCTS or len(node.args) != 2:
            return None
        a, b = (earlier[operand] for operand in node.args)
        ndim = len(node.meta["info"].shape or ())
        if len(a.shape) != ndim or len(b.shape) != ndim:
            return None
        free = None
        if b.dims and ndim - 1 in b.dims:
            free = 1
        elif a.dims and ndim - 2 in a.dims:
            free = 0
        return cls._of(node, (a, b), (), free, (ndim - 2, ndim - 1))

    @classmethod
    def _of(
        cls, node: fx.Node, operands: Sequence[Rule], masks: Sequence[Rule], free: int | None, free_dims: Dims
    ) -> Self | None:
        """Returns the rule for a product.

        Args:
            node: The program's node.
            operands: The values that are multiplied.
            masks: What is broadcast to the pairs of matrices.
            free: The operand that has channels along its free dimension, if any.
            free_dims: For each operand, the result's dimension that is its free one.
        """
        shape = node.meta["info"].shape
        ndim = len(shape)
        pair_dims = tuple(
            d
            for d in range(ndim - 2)
            if any(d in (r.dims or ()) for r in operands) and all(r.shape[d] == shape[d] for r in operands)
        )
        dims = pair_dims if free is None else (*pair_dims, free_dims[free])
        if ndim < 3 or not dims or len(pair_dims) > 1:
            return None
        inputs = []
        channels_of = []
        for i, operand in enumerate([*operands, *masks]):
            along = dims if i == free else pair_dims
            reads, channels = access_broadcast(operand, shape, dims, along)
            inputs.append(reads)
            channels_of.append(channels)
        return cls(
            node=node,
            inputs=tuple(inputs),
            channels=count(shape, dims),
            dims=dims,
            channels_of=tuple(channels_of),
            free=free,
        )

    def number(self, inputs: Sequence[Numbering], decisions: Decisions, gated: GatedModel) -> Numbering:
        columns = [n.views[:, channels] for n, channels in zip(inputs, self.channels_of, strict=True)]
        return unique_rows(np.stack(columns, 2))  # (S, C, operands)

    def need_of_inputs(self, need: Tensor, gates: Mapping[str, Tensor]) -> list[Tensor]:
        needs = []
        for source, channels in zip(self.inputs, self.channels_of, strict=True):
            needs.append(torch.stack([any_reader(of_stream, channels, source.channels) for of_stream in need]))
        return needs

    def macs(self, need: Tensor, numbering: Numbering | None) -> Tensor:
        assert numbering is not None
        return any_reader(need, numbering.views, numbering.size).sum() * (self.info.macs // self.channels)

    def emit(self, live: Ids, emitter: Emitter) -> Parts:
        sources = emitter.numberings[self.node].sources
        assert sources is not None
        pair = self._pairs(sources[live])
        # Pairs with equally many columns run together, but whole values cannot stand side by side as pairs do.
        columns_per_pair = np.bincount(pair)[pair]
        whole_values = [sources[live, i] for i, source in enumerate(self.inputs) if not source.dims]
        keys = np.stack([columns_per_pair, *whole_values], 1)
        group = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
        parts = []
        for number in range(int(group.max()) + 1):
            is_member = group == number
            by_pair = np.argsort(pair[is_member], kind="stable")
            parts.append(self._part(live[is_member][by_pair], sources, emitter))
        return Parts(tuple(parts), self.dim)

    def _pairs(self, sources: Ids) -> Ids:
        """Numbers the pairs of matrices that pool channels belong to, of the channels' sources (channels, operands)."""
        fixed = [i for i in range(len(self.inputs)) if i != self.free]
        pairs: Ids = np.unique(sources[:, fixed], axis=0, return_inverse=True)[1].ravel().astype(np.int64)
        return pairs

    def _part(self, ids: Ids, sources: Ids, emitter: Emitter) -> Part:
        """Emits one product of pairs with equally many columns; `ids` are sorted by pair."""
        assert self.dims is not None
        pair = self._pairs(sources[ids])
        first_of_pair = np.flatnonzero(np.diff(pair, prepend=-1))
        has_pair_dim = self.free is not None and len(self.dims) > 1
        operands: list[Any] = []
        for i, source in enumerate(self.inputs):
            parts = emitter.accessed(source)
            read_ids = sources[ids if i == self.free else ids[first_of_pair], i]
            operand = emitter.view(parts, read_ids) if source.dims else parts.whole(int(read_ids[0]))
            if i == self.free and has_pair_dim:
                operand = _split_pairs(emitter.graph, operand, axis(source.dims), self.dims[0], len(first_of_pair))
            operands.append(operand)
        result = self._call(operands, emitter)
        if has_pair_dim:
            result = _join_pairs(emitter.graph, result, self.dims[0], self.dim)
        return Part(result, ids)

    def _call(self, operands: Sequence[Any], emitter: Emitter) -> fx.Node:
        return emitter.graph.call_function(torch.matmul, tuple(operands))


def _split_pairs(graph: fx.Graph, tensor: fx.Node, at: int, pair_dim: int, pairs: int) -> fx.Node:
    """Emits (…, pairs · channels, …) with pairs where the other operands have theirs, channels where they were."""
    tensor = graph.call_function(torch.unflatten, (tensor, at, [pairs, -1]))
    return tensor if at == pair_dim else graph.call_function(torch.movedim, (tensor, at, pair_dim))


def _join_pairs(graph: fx.Graph, tensor: fx.Node, pair_dim: int, at: int) -> fx.Node:
    """Emits the way back: pairs and their channels along one dimension, `at`."""
    if at != pair_dim:
        tensor = graph.call_function(torch.movedim, (tensor, pair_dim, at))
    return graph.call_function(torch.flatten, (tensor, at, at + 1))
