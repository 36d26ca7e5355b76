"""`Rearrange`: operators that only move data."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.rearrange import Rearrange
from gate2static.prune.rules.unary_map import UnaryMap
from tests.prune.rules.toys import VIEWS, After, Layer, Toy, calls, kinds_of, make_toy


def _last(x: Tensor) -> Tensor:
    """The channels at the end, as tokens have them."""
    return x.permute(0, 2, 3, 1)


def _last_two(x: Tensor) -> Tensor:
    return x.chunk(2, 1)[1]


def _heads(x: Tensor) -> Tensor:
    """Two heads of two channels, the two beside the positions: (N, heads, 2 · positions)."""
    groups: Tensor = x.unflatten(1, (2, 2))
    return groups.flatten(2)


@pytest.fixture(scope="module")
def flipped() -> Toy:
    return make_toy(After(lambda x: x.flip(1)))


def test_it_takes_moves_of_channels_and_positions() -> None:
    moves: list[Layer] = [_last, _last_two, _heads, lambda x: x.flip(1), lambda x: x[:, :, ::2], nn.Flatten()]
    assert kinds_of(*moves) == [Rearrange] * len(moves)


def test_it_leaves_what_moves_nothing_what_mixes_with_the_batch_and_slices_of_a_single_channel() -> None:
    with_batch = lambda x: x.view(-1, 2, 6, 6)  # noqa: E731
    assert kinds_of(lambda x: x.contiguous(), with_batch, lambda x: x[:, :1]) == [UnaryMap, Barrier, Barrier]


@pytest.mark.parametrize(
    ("move", "dims", "of_a"),
    [
        (lambda x: x.flip(1), (1,), [11, 10, 1, 0]),
        (_last_two, (1,), [10, 11]),
        (_last, (3,), [0, 1, 10, 11]),  # positions move, channels keep their order
        (lambda x: x.repeat(1, 2, 1, 1), (1,), [0, 1, 10, 11, 0, 1, 10, 11]),
        (lambda x: x.unflatten(1, (2, 2)), (1, 2), [0, 1, 10, 11]),  # along two dimensions, counted as before
    ],
)
def test_views_are_indexed(move: Layer, dims: tuple[int, ...], of_a: list[int]) -> None:
    toy = make_toy(After(move))
    rule = toy.rule(Rearrange)
    assert rule.dims == dims
    assert toy.views(rule)[0] == of_a  # of VIEWS[0] = 0 1 10 11
    toy.static()


def test_positions_that_become_channels_are_numbered_within_their_channel() -> None:
    toy = make_toy(After(nn.Flatten()), shape=(2, 3, 1, 2))
    # Channel c has two positions, so it becomes 2 · c and 2 · c + 1.
    assert toy.views(toy.rule(Rearrange))[0] == [0, 1, 2, 3, 20, 21, 22, 23]
    assert toy.need_of_inputs(toy.rule(Rearrange), "10000000", "00000000", "00000001")[0][0] == "10000000"
    toy.static()


def test_channels_that_mix_with_positions_go_together() -> None:
    toy = make_toy(After(lambda x: x.unflatten(1, (2, 2)), lambda x: x.flatten(2)))
    split, joined = toy.rules(Rearrange)
    assert toy.views(split) == VIEWS
    # Pairs of channels are read, numbered as they sort: 0 (0 1), 1 (4 9), 2 (6 11), 3 (10 11), 4 (12 13), 5 (14 11).
    assert toy.views(joined) == [[0, 3], [1, 2], [4, 5]]
    toy.static()


def test_a_channel_is_needed_where_any_of_its_copies_is(flipped: Toy) -> None:
    assert flipped.need_of_inputs(flipped.rule(Rearrange), "1000", "0000", "0011") == [["0001", "0000", "1100"]]
    assert flipped.origins(flipped.rule(Rearrange)) == [(0, list(range(16)))]
    twice = make_toy(After(lambda x: x.repeat(1, 2, 1, 1)))
    assert twice.need_of_inputs(twice.rule(Rearrange), "10000001", "0" * 8, "0" * 8)[0][0] == "1001"


def test_moves_of_channels_cost_nothing_and_those_of_positions_stay(flipped: Toy) -> None:
    assert "flip" not in calls(flipped.static())
    assert calls(make_toy(After(lambda x: x.flip(2))).static()).count("flip") == 1  # of all live channels at once
    toy = make_toy(After(torch.relu, _last_two))
    assert toy.live(toy.rules(Rearrange)[0]) == [6, 10, 11]
