"""How a consumer reads a value: along the channel dimensions that suit it, whatever the value's own are.

- `Same`: the value's own channels.
- `Coarse`: some of its channel dimensions only; what lies along the others goes together. A head of attention is made
  of the channels of its query.
- `Fine`: more dimensions than its own; every channel falls into several. Flattening (C, H, W) does that.
- `Whole`: a value without channels, or with channels along other dimensions. Each distinct value is read as a whole, in
  its canonical form; along `dims`, whole value k has the channels k·C … k·C+C-1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_dims import Dims, axis, count, others, permuted, to_physical
from gate2static.prune.analysis.numbering import Numbering, any_of, unique_rows
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.parts import Part, Pool

if TYPE_CHECKING:
    from gate2static.prune.rules.rule import Rule


class Reading(ABC):
    """A value as one consumer sees it.

    Attributes:
        rule: of the value.
        dims: where the consumer wants the channels; empty for the value as a whole, one "channel".
        channels: C along `dims`.
    """

    def __init__(self, rule: "Rule", dims: Dims) -> None:
        self.rule, self.dims = rule, dims
        self.channels = count(rule.info.shape or (), dims)

    @property
    def node(self) -> fx.Node:
        """The program's node."""
        return self.rule.node

    @property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape, at batch size 2; empty for what is no tensor."""
        return self.rule.info.shape or ()

    @abstractmethod
    def numbering(self, own: Numbering) -> Numbering:
        """From the value's numbering to that of its channels along `dims`."""

    @abstractmethod
    def demand(self, need: Tensor) -> Tensor:
        """Need (S, C) along `dims` -> need of the value's own channels."""

    @abstractmethod
    def pool(self, emitter: Emitter) -> Pool:
        """The emitted channels, in physical tensors of the layout `dims`."""


def read(rule: "Rule", dims: Dims = ()) -> Reading:
    """The way to read a value along `dims`."""
    own = rule.dims
    if own is not None and dims:
        if own == dims:
            return Same(rule, dims)
        if set(dims) < set(own):
            return Coarse(rule, dims)
        if set(own) < set(dims):
            return Fine(rule, dims)
    return Whole(rule, dims)


def read_along(rule: "Rule", shape: Sequence[int], dims: Dims, along: Dims) -> tuple[Reading, Ids]:
    """The way to read an operand that lines up with a result from the right, as broadcasting does.

    Args:
        rule: of the operand.
        shape: of the result.
        dims: channel dimensions of the result.
        along: those along which the operand may have channels.

    Returns:
        The reading, and for each channel of the result the operand's channel, as it is read.
    """
    own = rule.info.shape or ()
    offset = len(shape) - len(own)
    present = [d for d in along if d >= offset and own[d - offset] == shape[d]]
    sizes = [shape[d] if d in present else 1 for d in dims]
    channels = np.broadcast_to(np.arange(math.prod(sizes)).reshape(sizes), [shape[d] for d in dims])
    return read(rule, tuple(d - offset for d in present)), channels.flatten()


class Same(Reading):
    """The value's own channels."""

    def numbering(self, own: Numbering) -> Numbering:
        return own

    def demand(self, need: Tensor) -> Tensor:
        return need

    def pool(self, emitter: Emitter) -> Pool:
        return emitter.pools[self.node]


class Whole(Reading):
    """Each distinct value as a whole."""

    def numbering(self, own: Numbering) -> Numbering:
        values = self._values(own)
        views = values[:, None] * self.channels + np.arange(self.channels)
        return Numbering(views, (int(values.max()) + 1) * self.channels)

    def demand(self, need: Tensor) -> Tensor:
        return any_of(need, 1).expand(-1, self.rule.channels)

    def pool(self, emitter: Emitter) -> Pool:
        own = emitter.numberings[self.node]
        values, parts = self._values(own), []
        for value in np.unique(values):
            stream = int(np.flatnonzero(values == value)[0])
            if emitter.pools[self.node].holds(own.views[stream]).all():
                whole = emitter.canonical(self.rule, stream)
                if self.dims:
                    whole = to_physical(emitter.graph, whole, len(self.shape), self.dims)
                parts.append(Part(whole, value * self.channels + np.arange(self.channels)))
        return Pool(tuple(parts), axis(self.dims) if self.dims else None)

    def _values(self, own: Numbering) -> Ids:
        """(S,) which streams hold the same value."""
        if self.rule.dims is None:
            return own.views[:, 0]
        return unique_rows(own.views[:, None]).views[:, 0]


class Coarse(Reading):
    """Some of the channel dimensions; the channels along the others go together."""

    def numbering(self, own: Numbering) -> Numbering:
        return unique_rows(own.views[:, self._members()])

    def demand(self, need: Tensor) -> Tensor:
        members = self._members()
        out = need.new_zeros((len(need), members.size))
        out[:, torch.from_numpy(members.ravel()).to(need.device)] = need.repeat_interleave(members.shape[1], 1)
        return out

    def pool(self, emitter: Emitter) -> Pool:
        rows = self.numbering(emitter.numberings[self.node]).rows
        assert rows is not None
        own, source = self._own, emitter.pools[self.node]
        ids = np.flatnonzero(source.holds(rows).all(1))
        if not len(ids):
            return Pool((), axis(self.dims))
        node, at = emitter.view(source, rows[ids].ravel()), axis(own)
        inner = [d for d in own if d not in self.dims]
        node = emitter.graph.call_function(torch.unflatten, (node, at, [len(ids), *(self.shape[d] for d in inner)]))
        rest = others(len(self.shape), own)
        found = [*rest[:at], -1, *inner, *rest[at:]]
        wanted = others(len(self.shape), self.dims)
        wanted.insert(axis(self.dims), -1)
        node = permuted(emitter.graph, node, [found.index(d) for d in wanted])
        return Pool((Part(node, ids),), axis(self.dims))

    @property
    def _own(self) -> Dims:
        assert self.rule.dims is not None
        return self.rule.dims

    def _members(self) -> Ids:
        """(C, k) the value's own channels that each channel is made of."""
        sizes = [self.shape[d] for d in self._own]
        index = np.arange(math.prod(sizes)).reshape(sizes)
        order = [self._own.index(d) for d in (*self.dims, *(d for d in self._own if d not in self.dims))]
        return np.ascontiguousarray(index.transpose(order).reshape(self.channels, -1))


class Fine(Reading):
    """More dimensions than its own: channel c of the pool becomes c·K … c·K+K-1."""

    def numbering(self, own: Numbering) -> Numbering:
        channel, inner, factor = self._origin()
        return Numbering(own.views[:, channel] * factor + inner, own.size * factor)

    def demand(self, need: Tensor) -> Tensor:
        channel, inner, factor = self._origin()
        order = torch.from_numpy(np.lexsort((inner, channel))).to(need.device)
        return any_of(need[:, order].unflatten(1, (-1, factor)), 2).squeeze(2)

    def pool(self, emitter: Emitter) -> Pool:
        own = self.rule.dims
        assert own is not None
        rest, at = others(len(self.shape), own), axis(own)
        labels = [*rest[:at], -1, *rest[at:]]
        # The new channel dimensions as they lie in a physical tensor of the value's own layout.
        dims = tuple(i for i, d in enumerate(labels) if d == -1 or d in self.dims)
        extra = [self.shape[labels[i]] for i in dims if labels[i] != -1]
        inner = np.arange(math.prod(extra)).reshape(extra)
        new = others(len(labels), dims)
        order = [*new[: axis(self.dims)], *dims, *new[axis(self.dims) :]]
        parts = []
        for part in emitter.pools[self.node].parts:
            node = permuted(emitter.graph, part.node, order)
            node = emitter.graph.call_function(torch.flatten, (node, axis(self.dims), axis(self.dims) + len(dims) - 1))
            outer = part.ids.reshape([-1 if labels[i] == -1 else 1 for i in dims])
            ids = outer * inner.size + np.expand_dims(inner, [labels[i] for i in dims].index(-1))
            parts.append(Part(node, ids.ravel()))
        return Pool(tuple(parts), axis(self.dims))

    def _origin(self) -> tuple[Ids, Ids, int]:
        """Of every channel along `dims`: the value's own channel, the place in it, and how many places there are."""
        own = self.rule.dims
        assert own is not None
        sizes = [self.shape[d] for d in self.dims]
        place = np.unravel_index(np.arange(self.channels), sizes)
        outer = [i for i, d in enumerate(self.dims) if d in own]
        inner = [i for i, d in enumerate(self.dims) if d not in own]

        def index(which: list[int]) -> Ids:
            return np.ravel_multi_index([place[i] for i in which], [sizes[i] for i in which]).astype(np.int64)

        return index(outer), index(inner), math.prod(sizes[i] for i in inner)
