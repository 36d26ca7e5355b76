"""Rearrangements: where an operator that only moves data takes each element from, found by running the operator.

The operator runs on a tensor of addresses. From where each address ends up, the rearrangement splits into one of the
channels, which is no more than another index, and one of the remaining dimensions, which stays an operation on tensors.

1. A dimension of the result along which only channels change carries channels.
2. Where channels and other dimensions change together, the value is read coarser (pixel shuffle: what moves into space
   is no channel any more) or, when nothing would be left, finer (flattening: space becomes channels).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gate2static.graphs import Ids
from gate2static.program.annotate import BATCHES, NodeInfo
from gate2static.prune.analysis.channel_dims import Dims, count, others

_MOST_CHANNELS = 2**18
"""More channels than any layer has: reading so finely would number every element."""


@dataclass(frozen=True)
class PositionMove:
    """How the dimensions without channels move.

    Attributes:
        before: Their sizes in the source, at one batch size.
        after: Their sizes in the result.
        batch: Which of those before, and which of the result's, follows the batch.
        origin: For each dimension of the result the one it comes from, or None where it is new; None where the move is
            a plain reshape.
        picks: For each dimension before: the positions taken, None for all of them.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    batch: tuple[int | None, int | None]
    origin: tuple[int | None, ...] | None
    picks: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Rearrangement:
    """How a value's elements move.

    Attributes:
        source_dims: The channel dimensions along which the source is read.
        dims: The channel dimensions of the result.
        channels: (C,) The channel of the source that each channel of the result is.
        positions: How the other dimensions move.
    """

    source_dims: Dims
    dims: Dims
    channels: Ids
    positions: PositionMove


def find_rearrangement(
    calls: Sequence[Callable[[Tensor], Tensor]], before: NodeInfo, dims: Dims, after: NodeInfo
) -> Rearrangement | None:
    """Finds what an operator does to a value with channels along `dims`.

    Args:
        calls: The operator as it is called at each of `BATCHES`. What it does must not depend on which.
        before: The annotation of the value.
        dims: The value's channel dimensions.
        after: The annotation of the result.

    Returns:
        The rearrangement, or None where it does not split into channels and other dimensions.
    """
    at_batches = [_at_batch(call, before, dims, after, batch) for call, batch in zip(calls, BATCHES, strict=True)]
    first = at_batches[0]
    if first is None or any(other is None or not _agree(first, other) for other in at_batches):
        return None
    return first


def _at_batch(
    call: Callable[[Tensor], Tensor], before: NodeInfo, dims: Dims, after: NodeInfo, batch: int
) -> Rearrangement | None:
    shape = before.at(batch)
    addresses = call(torch.arange(math.prod(shape)).reshape(shape))
    if not addresses.numel() or len(before.batch_dims) > 1 or len(after.batch_dims) > 1:
        return None
    # One array per dimension in, of the result's shape: the coordinate that each element comes from.
    coordinates = np.unravel_index(addresses.numpy(), shape)
    varies = _dependence(coordinates, addresses.dim())
    source_dims = _separable(varies, dims)
    if source_dims is None or set(source_dims) & set(before.batch_dims) or count(shape, source_dims) > _MOST_CHANNELS:
        return None
    result_dims = tuple(int(j) for j in np.flatnonzero(varies[list(source_dims)].any(0)))
    if not result_dims or set(result_dims) & set(after.batch_dims):
        return None
    # The channels, at the first position of every other dimension; the positions, at the first channel.
    at_position = tuple(slice(None) if j in result_dims else 0 for j in range(addresses.dim()))
    at_channel = tuple(0 if j in result_dims else slice(None) for j in range(addresses.dim()))
    channel_coordinates = [coordinates[d][at_position].ravel() for d in source_dims]
    channels = np.ravel_multi_index(channel_coordinates, [shape[d] for d in source_dims])
    dims_before = others(len(shape), source_dims)
    dims_after = others(addresses.dim(), result_dims)
    positions = _position_move(
        [coordinates[d][at_channel] for d in dims_before],
        tuple(shape[d] for d in dims_before),
        tuple(addresses.shape[j] for j in dims_after),
        (_index_of_batch(dims_before, before.batch_dims), _index_of_batch(dims_after, after.batch_dims)),
    )
    if positions is None:
        return None
    return Rearrangement(source_dims, result_dims, channels.astype(np.int64), positions)


def _dependence(coordinates: Sequence[Ids], ndim: int) -> Ids:
    """Returns (dims in, dims out) whether a coordinate of the source changes along a dimension of the result."""
    varies = np.zeros((len(coordinates), ndim), dtype=bool)
    for d, coordinate in enumerate(coordinates):
        for j in range(ndim):
            varies[d, j] = _varies(coordinate, j)
    return varies


def _varies(coordinate: Ids, dim: int) -> bool:
    first = coordinate.take([0], dim)
    return coordinate.shape[dim] > 1 and bool((coordinate != first).any())


def _separable(varies: Ids, dims: Dims) -> Dims | None:
    """Returns the channel dimensions to read the source along, so that no dimension of the result mixes both kinds."""
    # Coarser: what mixes with other dimensions is no channel any more.
    source = set(dims)
    while mixed := _mixed(varies, source):
        source -= {d for d in source if varies[d, mixed].any()}
    if source:
        return tuple(sorted(source))
    # Finer: what mixes with channels becomes one.
    source = set(dims)
    while mixed := _mixed(varies, source):
        source |= {d for d in range(len(varies)) if varies[d, mixed].any()}
    return tuple(sorted(source))


def _mixed(varies: Ids, source: set[int]) -> list[int]:
    """Returns the dimensions of the result along which both channels and others change."""
    inside = varies[sorted(source)].any(0) if source else np.zeros(varies.shape[1], dtype=bool)
    outside = varies[[d for d in range(len(varies)) if d not in source]].any(0)
    return [int(j) for j in np.flatnonzero(inside & outside)]


def _position_move(
    coordinates: Sequence[Ids], before: tuple[int, ...], after: tuple[int, ...], batch: tuple[int | None, int | None]
) -> PositionMove | None:
    """Describes how the other dimensions move, or returns None where no move of whole dimensions does that.

    Args:
        coordinates: One array per dimension before, of the shape `after`: where each position comes from.
        before: The sizes in the source.
        after: The sizes in the result.
        batch: As in `PositionMove`.
    """
    if coordinates:
        addresses = np.ravel_multi_index(tuple(coordinates), before).ravel()
        if np.array_equal(addresses, np.arange(math.prod(before))):
            return PositionMove(before, after, batch, None, ())
    origin: list[int | None] = [None] * len(after)
    picks: list[tuple[int, ...] | None] = []
    for d, coordinate in enumerate(coordinates):
        along = [j for j in range(len(after)) if _varies(coordinate, j)]
        if len(along) > 1 or (along and origin[along[0]] is not None):
            return None
        if along:
            origin[along[0]] = d
        positions = coordinate[tuple(slice(None) if j in along else 0 for j in range(len(after)))]
        pick = tuple(np.atleast_1d(positions).tolist())
        takes_all = pick == tuple(range(before[d]))
        picks.append(None if takes_all else pick)
        if d == batch[0] and not takes_all:
            return None
    if batch[1] is not None and (batch[0] is None or origin[batch[1]] != batch[0]):
        return None
    return PositionMove(before, after, batch, tuple(origin), tuple(picks))


def _index_of_batch(dims: Sequence[int], batch_dims: Dims) -> int | None:
    return dims.index(batch_dims[0]) if batch_dims else None


def _agree(a: Rearrangement, b: Rearrangement) -> bool:
    """Returns whether two rearrangements are the same but for the batch size."""
    p = a.positions
    q = b.positions
    if (a.source_dims, a.dims, p.origin, p.picks) != (b.source_dims, b.dims, q.origin, q.picks):
        return False
    for sizes_a, sizes_b, batch in ((p.before, q.before, p.batch[0]), (p.after, q.after, p.batch[1])):
        for d, (x, y) in enumerate(zip(sizes_a, sizes_b, strict=True)):
            if x != y and d != batch:
                return False
    return np.array_equal(a.channels, b.channels)
