"""`Padding`: constant channels in front of others or behind them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.padding import Padding
from gate2static.prune.rules.unary_map import UnaryMap
from tests.prune.rules.toys import After, Toy, calls, kinds_of, make_toy


def _padded(x: Tensor) -> Tensor:
    """One channel of halves in front, one behind."""
    return F.pad(x, (0, 0, 0, 0, 1, 1), value=0.5)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(torch.relu, _padded))


def test_it_takes_constant_channels_but_no_padding_of_positions_nor_cuts() -> None:
    cut = lambda x: F.pad(x, (0, 0, 0, 0, -1, 1))  # noqa: E731
    assert kinds_of(_padded, cut, nn.ZeroPad2d(1)) == [Padding, Barrier, UnaryMap]


def test_the_padding_is_one_more_pool_channel_which_all_streams_read(toy: Toy) -> None:
    assert toy.views(toy.rule(Padding)) == [
        [16, 0, 1, 10, 11, 16],
        [16, 4, 9, 6, 11, 16],
        [16, 12, 13, 14, 11, 16],
    ]
    assert toy.origins(toy.rule(Padding)) == [(0, [*range(16), -1])]  # the padding comes from nowhere


def test_who_needs_a_channel_needs_the_first_one_too_whose_shape_the_padding_takes(toy: Toy) -> None:
    need = toy.need_of_inputs(toy.rule(Padding), "100000", "010100", "000000")
    assert need == [["1000", "1010", "0000"]]


def test_the_padding_is_filled_once_like_a_channel(toy: Toy) -> None:
    static = toy.static()
    (fill,) = (node for node in static.graph.nodes if node.target is torch.full_like)
    assert fill.args[1] == 0.5
    assert fill.args[0].args[1:] == (1, 0, 1)  # of the shape of one channel
    assert calls(static).count("full_like") == 1
