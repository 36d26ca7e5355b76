"""Rearrangements: an operator that moves data is run on addresses, and splits into channels and positions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gate2static.program.annotate import BATCHES, NodeInfo
from gate2static.prune.analysis.channel_dims import Dims
from gate2static.prune.analysis.rearrangement import Rearrangement, find_rearrangement


def _info(small: Tensor, large: Tensor) -> NodeInfo:
    """The annotation of a value, from what it is at both batch sizes."""
    follow = tuple(d for d, (m, n) in enumerate(zip(small.shape, large.shape, strict=True)) if m != n)
    return NodeInfo(streams=(0,), shape=tuple(small.shape), batch_dims=follow)


def _find(call: Callable[[Tensor], Tensor], sizes: tuple[int, ...], dims: Dims = (1,)) -> Rearrangement | None:
    """Finds what a call moves of a value with the batch in front of `sizes`."""
    before = [torch.empty(batch, *sizes) for batch in BATCHES]
    return find_rearrangement([call, call], _info(*before), dims, _info(*map(call, before)))


def _found(call: Callable[[Tensor], Tensor], sizes: tuple[int, ...], dims: Dims = (1,)) -> Rearrangement:
    moved = _find(call, sizes, dims)
    assert moved is not None
    return moved


@pytest.mark.parametrize(
    ("call", "dims", "channels"),
    [
        (lambda x: x.flip(1), (1,), [3, 2, 1, 0]),
        (lambda x: x[:, 1:3], (1,), [1, 2]),
        (lambda x: x.repeat(1, 2, 1, 1), (1,), [0, 1, 2, 3, 0, 1, 2, 3]),
        (lambda x: x.permute(0, 2, 3, 1), (3,), [0, 1, 2, 3]),
        (lambda x: x.unflatten(1, (2, 2)), (1, 2), [0, 1, 2, 3]),
        (lambda x: x.unflatten(1, (2, 2)).transpose(1, 2), (1, 2), [0, 2, 1, 3]),  # as in a channel shuffle
    ],
)
def test_channels_move_by_an_index(call: Callable[[Tensor], Tensor], dims: Dims, channels: list[int]) -> None:
    moved = _found(call, (4, 2, 3))
    assert moved.source_dims == (1,)
    assert moved.dims == dims
    assert moved.channels.tolist() == channels
    assert moved.positions.origin is None  # positions keep their order
    assert (moved.positions.before, moved.positions.after) == ((2, 2, 3), (2, 2, 3))


@pytest.mark.parametrize(
    ("call", "origin", "picks"),
    [
        (lambda x: x.transpose(2, 3), (0, 2, 1), (None, None, None)),
        (lambda x: x[:, :, :, ::2], (0, 1, 2), (None, None, (0, 2))),
        (lambda x: x[:, :, 1], (0, 2), (None, (1,), None)),  # the height is gone
        (lambda x: x[:, :, None].expand(-1, -1, 5, -1, -1), (0, None, 1, 2), (None, None, None)),  # a new dimension
    ],
)
def test_positions_move_by_dimensions(
    call: Callable[[Tensor], Tensor], origin: tuple[int | None, ...], picks: tuple[tuple[int, ...] | None, ...]
) -> None:
    moved = _found(call, (4, 2, 3))
    assert moved.channels.tolist() == [0, 1, 2, 3]
    # The dimensions without channels are 0 (the batch), 1 (the height) and 2 (the width).
    assert (moved.positions.origin, moved.positions.picks) == (origin, picks)


def test_positions_of_a_plain_reshape_have_no_origin() -> None:
    moved = _found(lambda x: x.flatten(2), (4, 2, 3))
    assert moved.positions.origin is None
    assert (moved.positions.before, moved.positions.after) == ((2, 2, 3), (2, 6))
    assert moved.positions.batch == (0, 0)


def test_channels_that_mix_with_positions_are_read_coarser() -> None:
    moved = _found(lambda x: x.flatten(2), (2, 2, 3), dims=(1, 2))  # (N, 2, 2, 3) -> (N, 2, 6)
    assert (moved.source_dims, moved.dims) == ((1,), (1,))
    assert moved.channels.tolist() == [0, 1]


def test_positions_that_become_channels_are_read_finer() -> None:
    moved = _found(lambda x: x.flatten(1), (4, 1, 2))
    assert (moved.source_dims, moved.dims) == ((1, 3), (1,))
    assert moved.channels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.flatten(0, 1),  # channels mix with the batch
        lambda x: x.flip(0),  # samples change places
        lambda x: x[:2],  # all of the batch at one size, and not at the other
        lambda x: x[:, :, :0],  # nothing is left
        lambda x: x[:, :1],  # a dimension of one channel does not say that it carries channels
    ],
)
def test_other_moves_have_no_rearrangement(call: Callable[[Tensor], Tensor]) -> None:
    assert _find(call, (4, 2, 3)) is None
