"""Connected operators between layers that only move channels or work number by number, and what their values hold.

In a region, what no move made is a *source*: a value read from outside, or the result of a pointwise operator. The
channels of all sources are counted through; a value that moves made is an array of such channels, in its own shape.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from gate2static.graphs import function_of
from gate2static.static.aten import ANY_BATCH, dtype_of, shape_of
from gate2static.static.capture import constant
from gate2static.static.deploy.traffic_cost import RESHAPES

_aten = torch.ops.aten
PICKS = _aten.index_select.default
CUTS = {_aten.narrow.default, _aten.cat.default}
_MOVES = {PICKS, *CUTS, *RESHAPES}


@dataclass(frozen=True)
class Piece:
    """Channels of a source that lie side by side."""

    source: int
    start: int
    length: int


class Region:
    """Operators on values of (N, positions, channels), with so many dimensions of positions.

    Attributes:
        nodes: in order.
        positions: how many dimensions lie between the batch and the channels.
        sources: in the order of their channels.
        ends: where the channels of each source begin, and where the last end.
        channels: of every value in or before the region, in the shape of its dimensions of channels.
        readers: of every node, those outside the region.
    """

    def __init__(self, network: fx.GraphModule, nodes: Sequence[fx.Node], positions: int) -> None:
        self.nodes, self.positions = dict.fromkeys(nodes), positions
        self.readers = {node: [reader for reader in node.users if reader not in self.nodes] for node in nodes}
        self.sources: list[fx.Node] = []
        self.ends = [0]
        self.channels: dict[fx.Node, Tensor] = {}
        for node in nodes:
            for source in operands(node):
                if source not in self.channels:
                    self._add_source(source)
            if self.is_move(node):
                self.channels[node] = self._moved(network, node)
            else:
                self._add_source(node)

    def _add_source(self, node: fx.Node) -> None:
        start, sizes = self.ends[-1], self.sizes(node)
        self.sources.append(node)
        self.ends.append(start + math.prod(sizes))
        self.channels[node] = torch.arange(start, self.ends[-1]).reshape(sizes)

    def _moved(self, network: fx.GraphModule, node: fx.Node) -> Tensor:
        """The channels that a move leaves: it is applied to those of its operands."""
        dims = [dim - self.positions - 1 for dim in dims_of(node)]
        operand: Any = fx.map_arg(node.args[0], self.channels.__getitem__)
        rest: Any = fx.map_arg(node.args[1 + len(dims) :], lambda stored: constant(network, stored).cpu())
        moved: Tensor = function_of(node)(operand, *dims, *rest)
        return moved

    def is_move(self, node: fx.Node) -> bool:
        """Whether an operator only moves channels; cutting positions is computing."""
        return node.target in _MOVES and dims_of(node)[0] > self.positions

    def sizes(self, node: fx.Node) -> tuple[int, ...]:
        """Of a value's dimensions of channels."""
        return (shape_of(node) or ())[self.positions + 1 :]

    @cached_property
    def reads(self) -> dict[fx.Node, list[Piece]]:
        """What pointwise operators or others than the region read, in pieces; of values with equal channels one."""
        read = [source for node in self.nodes if not self.is_move(node) for source in operands(node)]
        read += [node for node, readers in self.readers.items() if readers]
        distinct = {self.channels[node].numpy().tobytes(): node for node in read}
        return {node: self.pieces(self.channels[node]) for node in distinct.values()}

    def size(self, source: int) -> int:
        """How many channels a source has."""
        return self.ends[source + 1] - self.ends[source]

    def pieces(self, channels: Tensor) -> list[Piece]:
        """Channels as slices of sources, as few as there can be."""
        flat = channels.flatten().numpy()
        owners = np.searchsorted(self.ends, flat, side="right") - 1
        cuts = np.flatnonzero((np.diff(flat) != 1) | (np.diff(owners) != 0)) + 1
        starts = [0, *cuts.tolist()]
        return [
            Piece(int(owners[at]), int(flat[at]) - self.ends[owners[at]], end - at)
            for at, end in zip(starts, [*starts[1:], len(flat)], strict=True)
        ]

    def is_gathered(self, pieces: Sequence[Piece]) -> bool:
        """Whether it takes more than one slice, or whole sources side by side."""
        return len(pieces) > 1 and any(piece.length < self.size(piece.source) for piece in pieces)


def regions(network: fx.GraphModule, positions: int) -> list[Region]:
    """Those in which channels are picked right behind so many dimensions of positions.

    Args:
        network: annotated.
        positions: dimensions between the batch and the channels.
    """
    nodes = [node for node in network.graph.nodes if _is_movable(node, positions)]
    number = {node: i for i, node in enumerate(nodes)}
    edges = [(i, number[source]) for node, i in number.items() for source in node.all_input_nodes if source in number]
    readers, sources = np.array(edges, dtype=int).reshape(-1, 2).T
    adjacent = coo_array((np.ones(len(edges)), (readers, sources)), (len(nodes), len(nodes)))
    labels = connected_components(adjacent, directed=False)[1]
    picking = {labels[i] for node, i in number.items() if node.target is PICKS and dims_of(node)[0] == positions + 1}
    together = [[node for node, i in number.items() if labels[i] == label] for label in sorted(picking)]
    return [Region(network, members, positions) for members in together]


def operands(node: fx.Node) -> list[fx.Node]:
    """What a node reads and is computed."""
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def dims_of(node: fx.Node) -> list[int]:
    """Which dimensions a slice, a gather, a concatenation or a reshape is along."""
    operand: Any = node.args[0]
    ndim = len(shape_of(operand if isinstance(operand, fx.Node) else operand[0]) or ())
    given: Any = node.args[1:] if node.target is _aten.flatten.using_ints else node.args[1:2]
    return [dim % ndim for dim in given or (0,)]


def _is_movable(node: fx.Node, positions: int) -> bool:
    """Whether an operator can be applied as well where positions come last."""
    if node.op != "call_function" or not _has_channels(node, positions):
        return False
    if node.target in _MOVES:
        return _has_settings(node) and _can_move(node, positions)
    is_pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    settings = all(isinstance(value, bool | int | float | str) for value in node.kwargs.values())
    return is_pointwise and settings and all(_is_operand(source, node, positions) for source in node.all_input_nodes)


def _has_settings(node: fx.Node) -> bool:
    """Whether what a move is to do is known: numbers and stored indices, in their places."""
    given = [value for argument in node.args[1:] for value in (argument if isinstance(argument, list) else [argument])]
    known = all(value.op == "get_attr" if isinstance(value, fx.Node) else isinstance(value, int) for value in given)
    return not node.kwargs and known and not any(isinstance(value, fx.Node) for value in node.args[1:2])


def _can_move(node: fx.Node, positions: int) -> bool:
    first = dims_of(node)[0]
    if node.target is _aten.cat.default:  # other dtypes would be converted, values without dimensions left out
        alike = (len(shape_of(node) or ()), dtype_of(node))
        return first > 0 and all((len(shape_of(n) or ()), dtype_of(n)) == alike for n in node.all_input_nodes)
    return first > (0 if node.target in CUTS else positions)


def _has_channels(node: fx.Node, positions: int) -> bool:
    """Whether a value has a batch, so many dimensions of positions, and others behind them."""
    shape = shape_of(node)
    return shape is not None and len(shape) > positions + 1 and shape[0] == ANY_BATCH and 0 not in shape


def _is_operand(source: fx.Node, node: fx.Node, positions: int) -> bool:
    """Whether a pointwise operator finds the channels of its result in a value, or a constant that fits them."""
    shape, of_source = shape_of(node) or (), shape_of(source) or ()
    if source.op == "get_attr":
        return len(of_source) <= len(shape)
    return _has_channels(source, positions) and of_source[positions + 1 :] == shape[positions + 1 :]
