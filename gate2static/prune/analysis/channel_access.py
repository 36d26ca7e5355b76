"""Channel accesses: how a consumer reads a value, along the channel dimensions that suit the consumer.

- `Same`: the value's own channels.
- `Coarse`: some of its channel dimensions only. Channels that differ along the others go together: a head of attention
  is made of the channels of its query.
- `Fine`: more dimensions than the value's own. Every channel becomes several: flattening (C, H, W) does that.
- `Whole`: a value without channels, or with channels along other dimensions. Each distinct value is read as a whole, in
  its canonical form; along `dims`, distinct value k has the channels k·C … k·C+C-1.

The analysis of an access is here; `emission/accessed_parts.py` emits it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_dims import Dims, count
from gate2static.prune.analysis.need import any_of
from gate2static.prune.analysis.numbering import Numbering, unique_rows
from gate2static.prune.analysis.value import Value


class ChannelAccess(ABC):
    """A value as one consumer sees it.

    Attributes:
        value: The value that is read.
        dims: The dimensions along which the consumer wants the channels; empty for the value as a whole, which is one
            "channel".
        channels: C along `dims`.
    """

    def __init__(self, value: Value, dims: Dims) -> None:
        self.value = value
        self.dims = dims
        self.channels = count(value.shape, dims)

    @property
    def node(self) -> fx.Node:
        """The program's node."""
        return self.value.node

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape at batch size 2; empty for what is no tensor."""
        return self.value.shape

    @abstractmethod
    def numbering(self, of_value: Numbering) -> Numbering:
        """Turns the numbering of the value into that of its channels along `dims`."""

    @abstractmethod
    def need_of_value(self, need: Tensor) -> Tensor:
        """Turns the need (S, C) of the channels along `dims` into that of the value's own channels."""


def access(value: Value, dims: Dims = ()) -> ChannelAccess:
    """Returns the way to read a value along `dims`."""
    if value.dims is not None and dims:
        if value.dims == dims:
            return Same(value, dims)
        if set(dims) < set(value.dims):
            return Coarse(value, dims)
        if set(value.dims) < set(dims):
            return Fine(value, dims)
    return Whole(value, dims)


def access_broadcast(value: Value, shape: Sequence[int], dims: Dims, along: Dims) -> tuple[ChannelAccess, Ids]:
    """Returns the way to read an operand that lines up with a result from the right, as broadcasting does.

    Args:
        value: The operand.
        shape: The result's shape.
        dims: The channel dimensions of the result.
        along: Those of them along which the operand may have channels.

    Returns:
        The access, and (C,) for each channel of the result the operand's channel, as it is read.
    """
    offset = len(shape) - len(value.shape)  # dimensions of the result that the operand lacks
    present = [d for d in along if d >= offset and value.shape[d - offset] == shape[d]]
    # The operand's channels count through the dimensions that it has, and repeat along those that it lacks.
    sizes = [shape[d] if d in present else 1 for d in dims]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    channels = np.broadcast_to(numbers, [shape[d] for d in dims]).flatten()
    return access(value, tuple(d - offset for d in present)), channels


class Same(ChannelAccess):
    """The value's own channels."""

    def numbering(self, of_value: Numbering) -> Numbering:
        return of_value

    def need_of_value(self, need: Tensor) -> Tensor:
        return need


class Whole(ChannelAccess):
    """Each distinct value as a whole."""

    def numbering(self, of_value: Numbering) -> Numbering:
        # (S,) -> (S, C): distinct value k has the channels k·C … k·C+C-1
        values = self.distinct_values(of_value)
        views = values[:, None] * self.channels + np.arange(self.channels)
        return Numbering(views, (int(values.max()) + 1) * self.channels)

    def need_of_value(self, need: Tensor) -> Tensor:
        # (S, C) -> (S, channels of the value): a reader of the whole needs all of it
        return any_of(need, 1).expand(-1, self.value.channels)

    def distinct_values(self, of_value: Numbering) -> Ids:
        """Returns (S,) the number of the distinct value that each stream holds."""
        if self.value.dims is None:
            return of_value.views[:, 0]
        return unique_rows(of_value.views[:, None]).views[:, 0]


class Coarse(ChannelAccess):
    """Some of the channel dimensions; the channels along the others go together."""

    def numbering(self, of_value: Numbering) -> Numbering:
        return unique_rows(of_value.views[:, self.members()])

    def need_of_value(self, need: Tensor) -> Tensor:
        members = self.members()
        # (S, C) -> (S, C · k): each member is needed as much as the channel that it belongs to
        of_value = need.new_zeros((len(need), members.size))
        index = torch.from_numpy(members.ravel()).to(need.device)
        of_value[:, index] = need.repeat_interleave(members.shape[1], 1)
        return of_value

    def members(self) -> Ids:
        """Returns (C, k) the value's own channels that each channel along `dims` is made of."""
        assert self.value.dims is not None
        value_dims = self.value.dims
        sizes = [self.shape[d] for d in value_dims]
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        inner = [d for d in value_dims if d not in self.dims]
        # (*value_dims) -> (*dims, *inner) -> (C, k)
        order = [value_dims.index(d) for d in (*self.dims, *inner)]
        return np.ascontiguousarray(numbers.transpose(order).reshape(self.channels, -1))


class Fine(ChannelAccess):
    """More dimensions than the value's own: channel c of the pool becomes c·K … c·K+K-1."""

    def numbering(self, of_value: Numbering) -> Numbering:
        channel, place, places = self.origin()
        return Numbering(of_value.views[:, channel] * places + place, of_value.size * places)

    def need_of_value(self, need: Tensor) -> Tensor:
        channel, place, places = self.origin()
        order = torch.from_numpy(np.lexsort((place, channel))).to(need.device)
        # (S, C · K) -> (S, C, K) -> (S, C)
        return any_of(need[:, order].unflatten(1, (-1, places)), 2).squeeze(2)

    def origin(self) -> tuple[Ids, Ids, int]:
        """Finds where each channel along `dims` comes from.

        Returns:
            (C,) the value's own channel, (C,) the place inside that channel, and K, the number of places.
        """
        assert self.value.dims is not None
        sizes = [self.shape[d] for d in self.dims]
        # One array per dimension of `dims`: where each channel lies along it.
        coordinates = np.unravel_index(np.arange(self.channels), sizes)
        outer = [i for i, d in enumerate(self.dims) if d in self.value.dims]
        inner = [i for i, d in enumerate(self.dims) if d not in self.value.dims]

        def number(axes: list[int]) -> Ids:
            along = [coordinates[i] for i in axes]
            return np.ravel_multi_index(along, [sizes[i] for i in axes]).astype(np.int64)

        return number(outer), number(inner), math.prod(sizes[i] for i in inner)
