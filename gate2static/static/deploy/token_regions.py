"""Regions of tokens: connected operators between layers that only move channels or work number by number.

The values of a region are (N, *positions, *channels). A value that no move of the region made is a *source*:

1. a value that the region reads from outside, or
2. the result of a pointwise operator, or of an operator that cuts or joins positions.

The channels of all sources are counted through. A move is applied to these numbers themselves, so every value that a
move made is known as an array of the sources' channels, in the shape of its own dimensions of channels.

Requires: an annotated network (`aten.annotate`) with its constants folded. Ensures: the network is not changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from gate2static.graphs import function_of
from gate2static.static.capturing.capture import constant
from gate2static.static.deploy.token_operators import PICKS, can_join, channel_sizes, dims_of, moves_channels, operands


@dataclass(frozen=True)
class Piece:
    """Channels of a source that lie side by side.

    Attributes:
        source: The number of the source in its region.
        start: The first channel, counted from the source's own first one.
        length: The number of channels.
    """

    source: int
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Region:
    """Connected operators on values (N, *positions, *channels).

    Attributes:
        nodes: The operators, in the order of the graph.
        positions: The number of dimensions between the batch and the channels.
        sources: The values that no move of the region made, in the order of their channels.
        ends: The first channel of each source, and behind them the number of all channels.
        channels: The channels of every value in the region and of every value that it reads from outside, in the shape
            of the value's dimensions of channels.
        readers: The nodes outside the region that read each operator.
    """

    nodes: tuple[fx.Node, ...]
    positions: int
    sources: tuple[fx.Node, ...]
    ends: tuple[int, ...]
    channels: Mapping[fx.Node, Tensor]
    readers: Mapping[fx.Node, Sequence[fx.Node]]

    @classmethod
    def of(cls, network: fx.GraphModule, nodes: Sequence[fx.Node], positions: int) -> Self:
        """Numbers the channels of connected operators.

        Args:
            network: The annotated network, for its stored tensors.
            nodes: The operators, in the order of the graph.
            positions: The number of dimensions between the batch and the channels.
        """
        sources: list[fx.Node] = []
        ends = [0]
        channels: dict[fx.Node, Tensor] = {}

        def add_source(node: fx.Node) -> None:
            sizes = channel_sizes(node, positions)
            start = ends[-1]
            end = start + math.prod(sizes)
            sources.append(node)
            ends.append(end)
            channels[node] = torch.arange(start, end).reshape(sizes)

        for node in nodes:
            # Case 1: what the region reads from outside.
            for operand in operands(node):
                if operand not in channels:
                    add_source(operand)
            if moves_channels(node, positions):
                channels[node] = _moved(network, node, channels, positions)
            # Case 2: what is computed.
            else:
                add_source(node)
        members = set(nodes)
        readers = {node: [reader for reader in node.users if reader not in members] for node in nodes}
        return cls(
            nodes=tuple(nodes),
            positions=positions,
            sources=tuple(sources),
            ends=tuple(ends),
            channels=channels,
            readers=readers,
        )

    def size(self, source: int) -> int:
        """Returns the number of channels of a source."""
        return self.ends[source + 1] - self.ends[source]

    def __contains__(self, node: fx.Node) -> bool:
        """Returns whether a node is one of the region's operators."""
        return node in self.readers

    @cached_property
    def reads(self) -> dict[fx.Node, list[Piece]]:
        """The values that must be tensors, in pieces; of values with equal channels the last one.

        Pointwise operators read them, or nodes outside the region do.
        """
        values = []
        for node in self.nodes:
            if not moves_channels(node, self.positions):
                values += operands(node)
        values += [node for node, readers in self.readers.items() if readers]
        # One tensor serves all values with the same channels.
        distinct = {self.channels[node].numpy().tobytes(): node for node in values}
        return {node: self.pieces(self.channels[node]) for node in distinct.values()}

    def pieces(self, channels: Tensor) -> list[Piece]:
        """Cuts channels into as few pieces as possible.

        Args:
            channels: Channels of the region, of any shape.
        """
        flat = channels.flatten().numpy()
        owners = np.searchsorted(self.ends, flat, side="right") - 1
        # A piece ends where the next number does not follow, or belongs to another source.
        is_cut = (np.diff(flat) != 1) | (np.diff(owners) != 0)
        starts = [0, *(np.flatnonzero(is_cut) + 1).tolist()]
        stops = [*starts[1:], len(flat)]
        pieces = []
        for start, stop in zip(starts, stops, strict=True):
            source = int(owners[start])
            pieces.append(Piece(source, int(flat[start]) - self.ends[source], stop - start))
        return pieces

    def is_gathered(self, pieces: Sequence[Piece]) -> bool:
        """Returns whether pieces are more than one slice, and more than whole sources side by side.

        Args:
            pieces: Pieces of the region's sources.
        """
        return len(pieces) > 1 and any(piece.length < self.size(piece.source) for piece in pieces)


def token_regions(network: fx.GraphModule, positions: int) -> list[Region]:
    """Finds the regions in which channels are picked right behind the positions.

    Args:
        network: Annotated, with its constants folded.
        positions: The number of dimensions between the batch and the channels.
    """
    nodes = [node for node in network.graph.nodes if can_join(node, positions)]
    labels = _component_labels(nodes)
    picking = set()
    for node, label in zip(nodes, labels, strict=True):
        if node.target is PICKS and dims_of(node)[0] == positions + 1:
            picking.add(label)
    regions = []
    for picked in sorted(picking):
        members = [node for node, label in zip(nodes, labels, strict=True) if label == picked]
        regions.append(Region.of(network, members, positions))
    return regions


def _component_labels(nodes: Sequence[fx.Node]) -> list[int]:
    """Finds which nodes are connected.

    Args:
        nodes: Some nodes of one graph.

    Returns:
        The number of the connected component of each node.
    """
    number = {node: i for i, node in enumerate(nodes)}
    readers = []
    sources = []
    for node in nodes:
        for source in node.all_input_nodes:
            if source in number:
                readers.append(number[node])
                sources.append(number[source])
    edges = (np.array(readers, dtype=int), np.array(sources, dtype=int))
    adjacency = coo_array((np.ones(len(readers)), edges), (len(nodes), len(nodes)))
    labels: list[int] = connected_components(adjacency, directed=False)[1].tolist()
    return labels


def _moved(network: fx.GraphModule, node: fx.Node, channels: Mapping[fx.Node, Tensor], positions: int) -> Tensor:
    """Applies a move to the channels of its operands.

    Args:
        network: The network, for stored indices.
        node: The move.
        channels: The channels of its operands.
        positions: The number of dimensions between the batch and the channels.
    """
    # The channels have neither a batch nor positions.
    dims = [dim - positions - 1 for dim in dims_of(node)]
    operand: Any = fx.map_arg(node.args[0], channels.__getitem__)
    rest: Any = fx.map_arg(node.args[1 + len(dims) :], lambda stored: constant(network, stored).cpu())
    moved: Tensor = function_of(node)(operand, *dims, *rest)
    return moved
