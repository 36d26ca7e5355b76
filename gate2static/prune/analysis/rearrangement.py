"""Where an operator that only moves data takes every element from: the operator itself is asked.

It runs on a tensor of addresses. From where each address ended up, the movement splits into one of channels, which is
no more than another index, and one of the remaining dimensions, which stays an operation on tensors.

1. A dimension of the result along which only channels change carries channels.
2. Where channels and other dimensions change together, the value is read coarser (pixel shuffle: what moves into space
   is no channel any more) or, when nothing would be left, finer (flattening: space becomes channels).
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from gate2static.graphs import Ids
from gate2static.program.annotate import BATCHES, Info
from gate2static.prune.analysis.channel_dims import Dims, axis, count, others, permuted

_MOST_CHANNELS = 2**18


@dataclass(frozen=True)
class Movement:
    """How a value's elements move.

    Attributes:
        source: channel dimensions along which the source is read.
        dims: channel dimensions of the result.
        channels: (C,) channel of the source that each channel of the result is.
        rest: how the other dimensions move.
    """

    source: Dims
    dims: Dims
    channels: Ids
    rest: "Rest"


@dataclass(frozen=True)
class Rest:
    """How the dimensions without channels move.

    Attributes:
        before: their sizes, at one batch size.
        after: their sizes in the result.
        batch: which of those before, and which of the result's, follows the batch.
        origin: for each dimension of the result the one it comes from, or None where it is new; None where the
            movement is a plain reshape.
        picks: for each dimension before: the positions taken, None for all of them.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    batch: tuple[int | None, int | None]
    origin: tuple[int | None, ...] | None
    picks: tuple[tuple[int, ...] | None, ...]


def movement(calls: Sequence[Callable[[Tensor], Tensor]], before: Info, dims: Dims, after: Info) -> Movement | None:
    """What an operator does to a value with channels along `dims`; None where it does not split.

    Args:
        calls: the operator as it is called at each of `BATCHES`. What it does must not depend on which.
        before: of the value.
        dims: its channel dimensions.
        after: of the result.
    """
    found = [_at_batch(call, before, dims, after, batch) for call, batch in zip(calls, BATCHES, strict=True)]
    first = found[0]
    return first if first is not None and all(other is not None and _agree(first, other) for other in found) else None


def _at_batch(call: Callable[[Tensor], Tensor], before: Info, dims: Dims, after: Info, batch: int) -> Movement | None:
    shape = before.at(batch)
    result = call(torch.arange(math.prod(shape)).reshape(shape))
    if not result.numel():
        return None
    coordinates = np.unravel_index(result.numpy(), shape)
    varies = np.array([[_varies(c, j) for j in range(result.dim())] for c in coordinates], dtype=bool)
    varies = varies.reshape(len(shape), result.dim())
    source = _separable(varies, dims)
    if source is None or set(source) & set(before.batch_dims) or count(shape, source) > _MOST_CHANNELS:
        return None
    moved = tuple(int(j) for j in np.flatnonzero(varies[list(source)].any(0)))
    if not moved or set(moved) & set(after.batch_dims) or len(before.batch_dims) > 1 or len(after.batch_dims) > 1:
        return None
    at_rest = tuple(slice(None) if j in moved else 0 for j in range(result.dim()))
    channels = np.ravel_multi_index([coordinates[d][at_rest].ravel() for d in source], [shape[d] for d in source])
    rest_before, rest_after = others(len(shape), source), others(result.dim(), moved)
    at_channel = tuple(0 if j in moved else slice(None) for j in range(result.dim()))
    rest = _rest(
        [coordinates[d][at_channel] for d in rest_before],
        tuple(shape[d] for d in rest_before),
        tuple(result.shape[j] for j in rest_after),
        (_position(rest_before, before.batch_dims), _position(rest_after, after.batch_dims)),
    )
    return None if rest is None else Movement(source, moved, channels.astype(np.int64), rest)


def _position(dims: Sequence[int], batch_dims: Dims) -> int | None:
    return dims.index(batch_dims[0]) if batch_dims else None


def _agree(a: Movement, b: Movement) -> bool:
    """Whether two movements are the same but for the batch size."""
    same = (a.source, a.dims, a.rest.origin, a.rest.picks) == (b.source, b.dims, b.rest.origin, b.rest.picks)
    sizes = all(
        x == y or d == batch
        for one, other, batch in zip(
            (a.rest.before, a.rest.after), (b.rest.before, b.rest.after), a.rest.batch, strict=True
        )
        for d, (x, y) in enumerate(zip(one, other, strict=True))
    )
    return same and sizes and np.array_equal(a.channels, b.channels)


def emit_rest(graph: fx.Graph, node: fx.Node, moved: Movement, channels: int) -> fx.Node:
    """Apply the movement of the other dimensions to a physical tensor of the source with so many channels."""
    rest = moved.rest
    if rest.origin is None:
        return _reshaped(graph, node, moved, channels)
    labels: list[int] = [*range(len(rest.before))]
    labels.insert(axis(moved.source), -1)
    for d, pick in enumerate(rest.picks):
        if pick is not None:
            node = _picked(graph, node, labels.index(d), pick, rest.before[d])
    gone = [d for d in range(len(rest.before)) if d not in rest.origin]
    for d in reversed(gone):
        node = graph.call_function(torch.select, (node, labels.index(d), 0))
        labels.remove(d)
    wanted: list[int | None] = list(rest.origin)
    wanted.insert(axis(moved.dims), -1)
    kept = [label for label in wanted if label is not None]
    node = permuted(graph, node, [labels.index(label) for label in kept])
    sizes = list(rest.after)
    sizes.insert(axis(moved.dims), -1)
    for position, label in enumerate(wanted):
        if label is None:
            node = graph.call_function(torch.unsqueeze, (node, position))
    if any(label is None and sizes[i] > 1 for i, label in enumerate(wanted)):
        new = [sizes[i] if label is None else -1 for i, label in enumerate(wanted)]
        node = graph.call_method("expand", (node, new))
    return node


def _varies(coordinate: Ids, dim: int) -> bool:
    first = coordinate.take([0], dim)
    return coordinate.shape[dim] > 1 and bool((coordinate != first).any())


def _separable(varies: Ids, dims: Dims) -> Dims | None:
    """The channel dimensions to read the source along so that no dimension of the result mixes both kinds."""
    source = set(dims)
    while mixed := _mixed(varies, source):
        source -= {d for d in source if varies[d, mixed].any()}
    if source:
        return tuple(sorted(source))
    source = set(dims)
    while mixed := _mixed(varies, source):
        source |= {d for d in range(len(varies)) if varies[d, mixed].any()}
    return tuple(sorted(source))


def _mixed(varies: Ids, source: set[int]) -> list[int]:
    inside = varies[sorted(source)].any(0) if source else np.zeros(varies.shape[1], dtype=bool)
    outside = varies[[d for d in range(len(varies)) if d not in source]].any(0)
    return [int(j) for j in np.flatnonzero(inside & outside)]


def _rest(
    coordinates: Sequence[Ids], before: tuple[int, ...], after: tuple[int, ...], batch: tuple[int | None, int | None]
) -> Rest | None:
    """From the coordinates, one array a dimension before, that every place of the result comes from."""
    if coordinates:
        addresses = np.ravel_multi_index(tuple(coordinates), before).ravel()
        if np.array_equal(addresses, np.arange(math.prod(before))):
            return Rest(before, after, batch, None, ())
    origin: list[int | None] = [None] * len(after)
    picks: list[tuple[int, ...] | None] = []
    for d, coordinate in enumerate(coordinates):
        along = [j for j in range(len(after)) if _varies(coordinate, j)]
        if len(along) > 1 or (along and origin[along[0]] is not None):
            return None
        if along:
            origin[along[0]] = d
        taken = coordinate[tuple(slice(None) if j in along else 0 for j in range(len(after)))]
        pick = tuple(np.atleast_1d(taken).tolist())
        picks.append(None if pick == tuple(range(before[d])) else pick)
        if d == batch[0] and picks[-1] is not None:
            return None
    if batch[1] is not None and (batch[0] is None or origin[batch[1]] != batch[0]):
        return None
    return Rest(before, after, batch, tuple(origin), tuple(picks))


def _picked(graph: fx.Graph, node: fx.Node, dim: int, pick: tuple[int, ...], size: int) -> fx.Node:
    """The positions `pick` along `dim`, by the plainest operator that does it."""
    steps = set(np.diff(pick).tolist()) or {1}
    if steps == {1}:
        return graph.call_function(torch.narrow, (node, dim, pick[0], len(pick)))
    if len(steps) == 1 and (step := steps.pop()) > 0:
        index = (*[slice(None)] * dim, slice(pick[0], pick[-1] + 1, step))
        return graph.call_function(operator.getitem, (node, index))
    if pick == tuple(reversed(range(size))):
        return graph.call_function(torch.flip, (node, [dim]))
    if pick == tuple(np.roll(np.arange(size), -pick[0]).tolist()):
        return graph.call_function(torch.roll, (node, -pick[0], dim))
    pieces = [graph.call_function(torch.narrow, (node, dim, at, 1)) for at in pick]
    return graph.call_function(torch.cat, (pieces, dim))


def _reshaped(graph: fx.Graph, node: fx.Node, moved: Movement, channels: int) -> fx.Node:
    """A reshape of the other dimensions; channels stay between those that they separate, or move to the end first."""
    rest, before, after = moved.rest, axis(moved.source), axis(moved.dims)
    at = after
    if rest.before != rest.after or rest.batch[0] != rest.batch[1]:
        outer = math.prod(rest.before[:before])
        places = [p for p in range(len(rest.after) + 1) if math.prod(rest.after[:p]) == outer]
        if not places:
            node = graph.call_function(torch.movedim, (node, before, len(rest.before)))
            places = [len(rest.after)]
        at = after if after in places else places[-1]
        sizes = [-1 if j == rest.batch[1] else size for j, size in enumerate(rest.after)]
        sizes.insert(at, channels)
        node = graph.call_function(torch.reshape, (node, sizes))
    else:
        at = before
    return node if at == after else graph.call_function(torch.movedim, (node, at, after))
