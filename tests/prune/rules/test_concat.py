"""`Concat`: concatenation and stacking along channels."""

import pytest
import torch
from torch import Tensor

from gate2static.prune.rules.broadcast_map import BroadcastMap
from gate2static.prune.rules.concat import Concat
from tests.prune.rules.toys import After, Toy, calls, kinds_of, make_toy


def _twice(x: Tensor) -> Tensor:
    """Eight channels: four rectified, and the four themselves."""
    return torch.cat([x.relu(), x], 1)


def _stacked(x: Tensor) -> Tensor:
    return torch.stack([x.relu(), x], 2)


def _halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return first * second


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(_twice))


def test_it_takes_joins_along_channels_but_not_along_other_dimensions() -> None:
    assert kinds_of(_twice, _stacked, lambda x: torch.cat([x, x], 2)) == [Concat, Concat, BroadcastMap]


def test_the_pools_of_the_operands_stand_side_by_side(toy: Toy) -> None:
    assert toy.views(toy.rule(Concat)) == [
        [0, 1, 10, 11, 16, 17, 26, 27],  # both operands have 16 pool channels, so the second one's begin at 16
        [4, 9, 6, 11, 20, 25, 22, 27],
        [12, 13, 14, 11, 28, 29, 30, 27],
    ]
    no_source = [-1] * 16
    assert toy.origins(toy.rule(Concat)) == [(0, [*range(16), *no_source]), (1, [*no_source, *range(16)])]


def test_stacked_channels_alternate() -> None:
    toy = make_toy(After(_stacked))
    stack = toy.rule(Concat)
    assert stack.dims == (1, 2)  # (N, 4, 2, H, W): channel c is operand c % 2 of channel c // 2
    assert toy.views(stack)[0] == [0, 16, 1, 17, 10, 26, 11, 27]
    assert "movedim" not in calls(toy.static())


def test_where_stacking_leaves_positions_between_channels_tensors_are_permuted() -> None:
    toy = make_toy(After(lambda x: torch.stack([x.relu(), x], -1)))
    stack = toy.rule(Concat)
    assert stack.dims == (1, 4)  # (N, 4, H, W, 2), emitted as (N, H, W, channels)
    assert toy.views(stack)[0] == [0, 16, 1, 17, 10, 26, 11, 27]
    assert calls(toy.static()).count("movedim") == 2  # one for each operand


def test_every_operand_is_needed_where_its_channels_are(toy: Toy) -> None:
    need = toy.need_of_inputs(toy.rule(Concat), "10000001", "01100000", "00000000")
    assert need == [["1000", "0110", "0000"], ["0001", "0000", "0000"]]


def test_nothing_is_copied_until_a_reader_needs_the_operands_side_by_side(toy: Toy) -> None:
    assert calls(toy.static()).count("cat") == 2  # once for each head
    assert "cat" not in calls(make_toy(After(_twice, _halves)).static())
