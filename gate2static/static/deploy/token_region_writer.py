"""`RegionWriter`: a region of tokens written with its positions last.

    (N, *positions, *channels) -> (N, channels, *positions)

Every value of a region is needed as one tensor of the second form. It is

1. a source, or a slice of one,
2. whole sources side by side, or
3. one gather from a *stack*: sources that are read together, one behind the other. What several values gather from the
   same sources is put side by side once.

Requires: an annotated network (`aten.annotate`) with its constants folded. Ensures: the same function; what nodes
outside the region read is annotated.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.graphs import Ids, function_of
from gate2static.static.aten import shape_of
from gate2static.static.capturing.capture import constant, store
from gate2static.static.deploy.token_operators import CUTS, PICKS, channel_sizes, dims_of
from gate2static.static.deploy.token_regions import Piece, Region

_aten = torch.ops.aten


@dataclass(frozen=True)
class _Stack:
    """A tensor of sources, one behind the other.

    Attributes:
        tensor: The tensor (N, channels, *positions).
        sources: The numbers of the sources.
        channels: The region's channel at each place of the tensor.
    """

    tensor: fx.Node
    sources: frozenset[int]
    channels: Ids


class RegionWriter:
    """Writes a region with its positions last.

    Every value of the region is needed as a tensor (N, channels, *positions) with certain channels. The writer makes
    each such tensor once: from a source, from sources side by side, or from a stack.

    Args:
        network: An annotated network, which is changed.
        region: A region of the network.
    """

    def __init__(self, network: fx.GraphModule, region: Region) -> None:
        self._network = network
        self._graph = network.graph
        self._region = region
        self._order = {node: i for i, node in enumerate(network.graph.nodes)}
        self._device = next(chain(network.parameters(), network.buffers())).device
        # The sources of every value that is gathered; values that read the same sources share stacks.
        gathers = [pieces for pieces in region.reads.values() if region.is_gathered(pieces)]
        self._gathers = [frozenset(piece.source for piece in pieces) for pieces in gathers]
        # What is written by now: sources by number, values by the bytes of their channels, and stacks.
        self._sources: dict[int, fx.Node] = {}
        self._values: dict[bytes, fx.Node] = {}
        self._stacks: list[_Stack] = []
        self._written_up_to = 0

    def write(self) -> None:
        """Computes every source with positions last, and from the sources what nodes outside the region read."""
        number = {node: i for i, node in enumerate(self._region.sources)}
        for node, readers in self._region.readers.items():
            self._written_up_to = self._order[node]
            with self._graph.inserting_before(node):
                if node in number:
                    self._sources[number[node]] = self._compute(node)
                if readers:
                    value = self._permute_back(node)
                    for reader in readers:
                        reader.replace_input_with(node, value)

    def _compute(self, node: fx.Node) -> fx.Node:
        """Writes a pointwise operator, or a cut of positions, where positions come last.

        Args:
            node: The operator, which computes a source.

        Returns:
            The source (N, channels, *positions).
        """

        def operand(source: fx.Node) -> fx.Node:
            if source.op == "get_attr":
                return self._constant(source, node)
            return self._value(self._region.channels[source])

        args: Any = fx.map_arg(node.args, operand)
        if node.target in CUTS:
            # Positions stand one dimension further back: behind the batch and the channels.
            (dim,) = dims_of(node)
            args = (args[0], dim + 1, *args[2:])
        return self._graph.call_function(function_of(node), args, dict(node.kwargs))

    def _constant(self, stored: fx.Node, node: fx.Node) -> fx.Node:
        """Writes a stored tensor as a pointwise operator reads it where positions come last.

        Args:
            stored: The tensor's node.
            node: The operator.
        """
        value = constant(self._network, stored)
        if value.dim() == 0:
            return stored  # with dimensions it might decide the dtype of the result
        ndim = len(shape_of(node) or ())
        sizes = channel_sizes(node, self._region.positions)
        # (…) -> (1, *positions, *channels) -> (1, *channels, *positions); sizes are 1 where it is broadcast
        absent = [1] * (ndim - value.dim())
        value = value.reshape(*absent, *value.shape).permute(self._positions_last(ndim))
        if len(sizes) > 1:
            # Channels that it is broadcast along must have their size before they are flattened into one dimension.
            positions = [-1] * self._region.positions
            value = value.expand(-1, *sizes, *positions).flatten(1, len(sizes))
        name = store(self._network, value.contiguous(), trained=value.is_floating_point())
        return self._graph.get_attr(name)

    def _permute_back(self, node: fx.Node) -> fx.Node:
        """Writes a value of the region for readers outside.

        Args:
            node: The value's node.

        Returns:
            The value in its own shape (N, *positions, *channels), annotated.
        """
        sizes = channel_sizes(node, self._region.positions)
        value = self._value(self._region.channels[node])
        if len(sizes) > 1:
            value = self._graph.call_function(_aten.unflatten.int, (value, 1, list(sizes)))
        order = self._positions_last(len(shape_of(node) or ()))
        inverse = [order.index(dim) for dim in range(len(order))]
        value = self._graph.call_function(_aten.permute.default, (value, inverse))
        value.meta = dict(node.meta)
        return value

    def _positions_last(self, ndim: int) -> list[int]:
        """Returns the order of dimensions (N, *channels, *positions), for values of `ndim` dimensions."""
        first_channel = self._region.positions + 1
        return [0, *range(first_channel, ndim), *range(1, first_channel)]

    def _value(self, channels: Tensor) -> fx.Node:
        """Writes the tensor with exactly these channels, once.

        Args:
            channels: Channels of the region, in the shape of the value's dimensions of channels.

        Returns:
            The tensor (N, channels, *positions).
        """
        key = channels.numpy().tobytes()
        if key not in self._values:
            pieces = self._region.pieces(channels)
            # Case 3.
            if self._region.is_gathered(pieces):
                self._values[key] = self._pick(pieces, channels)
            else:
                self._values[key] = self._slice_or_join(pieces)
        return self._values[key]

    def _pick(self, pieces: list[Piece], channels: Tensor) -> fx.Node:
        """Writes one gather from a stack.

        Args:
            pieces: The channels in pieces, whose sources the stack must hold.
            channels: The channels.

        Returns:
            The tensor (N, channels, *positions).
        """
        stack = self._stack(frozenset(piece.source for piece in pieces))
        # (channels of the region): the place of each channel in the stack
        places = np.empty(self._region.ends[-1], dtype=np.int64)
        places[stack.channels] = np.arange(len(stack.channels))
        picked = torch.from_numpy(places[channels.flatten().numpy()]).to(self._device)
        index = self._graph.get_attr(store(self._network, picked, trained=False))
        return self._graph.call_function(PICKS, (stack.tensor, 1, index))

    def _slice_or_join(self, pieces: list[Piece]) -> fx.Node:
        """Writes one slice of a source, or whole sources side by side.

        Args:
            pieces: One piece, or whole sources.

        Returns:
            The tensor (N, channels, *positions).
        """
        first = pieces[0]
        # Case 1.
        if first.length < self._region.size(first.source):
            args = (self._source(first.source), 1, first.start, first.length)
            return self._graph.call_function(_aten.narrow.default, args)
        # Case 2, or a whole source.
        return self._join([self._source(piece.source) for piece in pieces])

    def _join(self, tensors: list[fx.Node]) -> fx.Node:
        """Writes tensors (N, channels, *positions) side by side, along their channels."""
        if len(tensors) == 1:
            return tensors[0]
        return self._graph.call_function(_aten.cat.default, (tensors, 1))

    def _stack(self, sources: frozenset[int]) -> _Stack:
        """Returns a stack that holds these sources.

        A new stack also takes in the sources that other gathers read together with these, if all of them are computed
        by now. It is put together from earlier stacks where they fit.

        Args:
            sources: The numbers of the sources that must be in the stack.
        """
        for stack in self._stacks:
            if sources <= stack.sources:
                return stack
        # One stack for all gathers that share sources: what it holds is copied once.
        for gather in self._gathers:
            if gather & sources and all(self._is_computed(source) for source in gather):
                sources |= gather
        tensors = []
        channels: list[Ids] = []
        missing = sources
        # Later stacks hold more.
        for stack in reversed(self._stacks):
            if stack.sources <= missing:
                tensors.append(stack.tensor)
                channels.append(stack.channels)
                missing -= stack.sources
        for source in sorted(missing):
            tensors.append(self._source(source))
            channels.append(np.arange(self._region.ends[source], self._region.ends[source + 1]))
        stack = _Stack(self._join(tensors), sources, np.concatenate(channels))
        self._stacks.append(stack)
        return stack

    def _is_computed(self, source: int) -> bool:
        """Returns whether a source is computed before the node that is written now.

        Args:
            source: The number of the source.
        """
        if source in self._sources:
            return True
        node = self._region.sources[source]
        return node not in self._region and self._order[node] < self._written_up_to

    def _source(self, source: int) -> fx.Node:
        """Writes a source with positions last, once.

        Args:
            source: The number of the source. Those that the region computes have positions last already.

        Returns:
            The source (N, channels, *positions).
        """
        if source not in self._sources:
            node = self._region.sources[source]
            order = self._positions_last(len(shape_of(node) or ()))
            sizes = channel_sizes(node, self._region.positions)
            # (N, *positions, *channels) -> (N, *channels, *positions) -> (N, channels, *positions)
            tensor = self._graph.call_function(_aten.permute.default, (node, order))
            if len(sizes) > 1:
                tensor = self._graph.call_function(_aten.flatten.using_ints, (tensor, 1, len(sizes)))
            self._sources[source] = tensor
        return self._sources[source]
