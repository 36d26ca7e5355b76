"""Channels moved as rows: where they come last, as tokens have them, values are kept with channels before positions.

ONNX Runtime picks channels number by number along the last dimension, and a row of positions at a time along an
earlier one. So what lies between the layers (`regions`) is done on values whose positions come last,

    (N, L, C) -> (N, C, L),    (N, H, W, C) -> (N, C, H, W),    (N, L, heads, C / heads) -> (N, C, L)

and what layers, norms and attention read and write is permuted; next to matrix products that is free. Slices, gathers
and concatenations become one index into a *pool*: tensors that are read together, one behind the other. Nothing is
computed differently.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.graphs import Ids, function_of
from gate2static.static.aten import elements, shape_of
from gate2static.static.capture import constant, store
from gate2static.static.deploy.compose_permutations import PERMUTATIONS, compose_permutations, pick_before_permuting
from gate2static.static.deploy.decompose_attention import open_attention, transpose_products
from gate2static.static.deploy.token_regions import CUTS, PICKS, Region, dims_of, regions
from gate2static.static.deploy.traffic_cost import copied

_aten = torch.ops.aten
_READ_STRIDES = {_aten.view_as_complex.default, _aten.view.dtype}
"""What works on dimensions that lie side by side in memory; permuted ones do not."""
_POSITIONS = (1, 2, 3)  # tokens or sequences, images, volumes
_PERMUTE_FREELY = {*PERMUTATIONS, _aten.linear.default, _aten.matmul.default, _aten.bmm.default}
_ROWS, _PERMUTED = 0.6, 1.5
"""Time of a number copied in a row of positions, and of one permuted; 1 is one copied along channels that come last."""


def move_tokens_as_rows(network: fx.GraphModule) -> bool:
    """Rewrite, in place, what picks channels behind positions, and what works number by number beside it.

    Regions in which that takes longer than it saves stay as they are: where channels are moved in long runs. Whether
    any is rewritten or not, attention is written as products, which take permuted operands as they are, and picks come
    before permutations. Results may lie permuted in memory.

    Args:
        network: Annotated, its constants folded.

    Returns:
        Whether anything changed.
    """
    picks = network.graph.find_nodes(op="call_function", target=PICKS)
    reads_strides = any(node.target in _READ_STRIDES for node in network.graph.nodes)
    if reads_strides or all(node.args[1:2] in ((0,), (1,)) for node in picks):
        return False
    before = [(node, node.target, node.args) for node in network.graph.nodes]
    compose_permutations(network)
    pick_before_permuting(network)
    products = open_attention(network)
    for positions in _POSITIONS:
        for region in regions(network, positions):
            if _pays(region):
                _Rewriter(network, region).rewrite()
        network.graph.eliminate_dead_code()
    compose_permutations(network)
    transpose_products(products)
    compose_permutations(network)
    return before != [(node, node.target, node.args) for node in network.graph.nodes]


def _pays(region: Region) -> bool:
    """Whether moving rows and permuting takes less time than moving channels where they are."""
    permuted = [node for node in region.sources if node not in region.nodes and node.target not in PERMUTATIONS]
    for node, readers in region.readers.items():
        if any(reader.target not in _PERMUTE_FREELY for reader in readers):
            permuted.append(node)
    rows, pooled = 0, set[int]()
    for node, pieces in region.reads.items():
        sources = {piece.source for piece in pieces}
        if len(pieces) > 1 or pieces[0].length < region.size(pieces[0].source):
            rows += elements(node)
        if len(sources) > 1 and region.is_gathered(pieces):
            pooled |= sources
    rows += sum(elements(region.sources[source]) for source in pooled)
    first = _ROWS * rows + _PERMUTED * sum(map(elements, permuted))
    return first < sum(copied(node) for node in region.nodes if region.is_move(node))


@dataclass(frozen=True)
class _Pool:
    """Sources one behind the other.

    Attributes:
        tensor: (N, channels, …).
        sources: their numbers.
        channels: the region's channel at each place.
    """

    tensor: fx.Node
    sources: frozenset[int]
    channels: Ids


class _Rewriter:
    """Writes a region with its positions last."""

    def __init__(self, network: fx.GraphModule, region: Region) -> None:
        self.network, self.graph, self.region = network, network.graph, region
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}
        gathered = filter(region.is_gathered, region.reads.values())
        self.gathered = [frozenset(piece.source for piece in pieces) for pieces in gathered]
        self.tensors: dict[int, fx.Node] = {}
        self.pools: list[_Pool] = []
        self.views: dict[bytes, fx.Node] = {}
        self.device = next(chain(network.parameters(), network.buffers())).device
        self.now = 0

    def rewrite(self) -> None:
        """Compute every source with channels first, and from them what others than the region read."""
        number = {node: i for i, node in enumerate(self.region.sources)}
        for node, readers in self.region.readers.items():
            self.now = self.order[node]
            with self.graph.inserting_before(node):
                if node in number:
                    self.tensors[number[node]] = self._computed(node)
                if readers:
                    value = self._as_it_was(node)
                    for reader in readers:
                        reader.replace_input_with(node, value)

    def _computed(self, node: fx.Node) -> fx.Node:
        """What a pointwise operator, or a cut of positions, computes, as (N, channels, …)."""

        def operand(source: fx.Node) -> fx.Node:
            return self._constant(source, node) if source.op == "get_attr" else self._read(self.region.channels[source])

        args: Any = fx.map_arg(node.args, operand)
        if node.target in CUTS:
            args = (args[0], dims_of(node)[0] + 1, *args[2:])
        return self.graph.call_function(function_of(node), args, dict(node.kwargs))

    def _constant(self, stored: fx.Node, node: fx.Node) -> fx.Node:
        """A constant as the pointwise operator `node` reads it where channels come first."""
        value, ndim, sizes = constant(self.network, stored), len(shape_of(node) or ()), self.region.sizes(node)
        if value.dim() == 0:  # with dimensions it might decide the dtype of the result
            return stored
        value = value.reshape(*[1] * (ndim - value.dim()), *value.shape).permute(self._channels_first(ndim))
        if len(sizes) > 1:
            value = value.expand(-1, *sizes, *[-1] * self.region.positions).flatten(1, len(sizes))
        return self.graph.get_attr(store(self.network, value.contiguous(), trained=value.is_floating_point()))

    def _as_it_was(self, node: fx.Node) -> fx.Node:
        """A value of the region in its own shape."""
        order, sizes = self._channels_first(len(shape_of(node) or ())), self.region.sizes(node)
        tensor = self._read(self.region.channels[node])
        if len(sizes) > 1:
            tensor = self.graph.call_function(_aten.unflatten.int, (tensor, 1, list(sizes)))
        back = [order.index(dim) for dim in range(len(order))]
        value = self.graph.call_function(_aten.permute.default, (tensor, back))
        value.meta = dict(node.meta)
        return value

    def _channels_first(self, ndim: int) -> list[int]:
        """The order of dimensions in which positions come last."""
        first = self.region.positions + 1
        return [0, *range(first, ndim), *range(1, first)]

    def _read(self, channels: Tensor) -> fx.Node:
        """(N, channels, …) with exactly these channels, made once."""
        key = channels.numpy().tobytes()
        if key not in self.views:
            self.views[key] = self._view(channels)
        return self.views[key]

    def _view(self, channels: Tensor) -> fx.Node:
        pieces = self.region.pieces(channels)
        first = pieces[0]
        if self.region.is_gathered(pieces):
            pool = self._pool(frozenset(piece.source for piece in pieces))
            rows = np.empty(self.region.ends[-1], dtype=np.int64)
            rows[pool.channels] = np.arange(len(pool.channels))
            picked = torch.from_numpy(rows[channels.flatten().numpy()]).to(self.device)
            index = store(self.network, picked, trained=False)
            return self.graph.call_function(PICKS, (pool.tensor, 1, self.graph.get_attr(index)))
        if first.length < self.region.size(first.source):
            cut = (self._tensor(first.source), 1, first.start, first.length)
            return self.graph.call_function(_aten.narrow.default, cut)
        return self._joined([self._tensor(piece.source) for piece in pieces])

    def _joined(self, tensors: list[fx.Node]) -> fx.Node:
        return tensors[0] if len(tensors) == 1 else self.graph.call_function(_aten.cat.default, (tensors, 1))

    def _pool(self, sources: frozenset[int]) -> _Pool:
        """A pool that has these sources; a new one takes in what is gathered with them and is there by now."""
        if (found := next((pool for pool in self.pools if sources <= pool.sources), None)) is not None:
            return found
        for others in self.gathered:
            if others & sources and all(self._is_there(source) for source in others):
                sources |= others
        left, parts = sources, []
        for pool in reversed(self.pools):
            if pool.sources <= left:
                parts.append((pool.tensor, pool.channels))
                left -= pool.sources
        ends = self.region.ends
        parts += [(self._tensor(s), np.arange(ends[s], ends[s + 1])) for s in sorted(left)]
        joined = self._joined([tensor for tensor, _ in parts])
        self.pools.append(_Pool(joined, sources, np.concatenate([channels for _, channels in parts])))
        return self.pools[-1]

    def _is_there(self, source: int) -> bool:
        """Whether a source is computed before what is rewritten now."""
        node = self.region.sources[source]
        return source in self.tensors or (node not in self.region.nodes and self.order[node] < self.now)

    def _tensor(self, source: int) -> fx.Node:
        """A source as (N, channels, …)."""
        if source not in self.tensors:
            node, sizes = self.region.sources[source], self.region.sizes(self.region.sources[source])
            order = self._channels_first(len(shape_of(node) or ()))
            made = self.graph.call_function(_aten.permute.default, (node, order))
            if len(sizes) > 1:
                made = self.graph.call_function(_aten.flatten.using_ints, (made, 1, len(sizes)))
            self.tensors[source] = made
        return self.tensors[source]
