"""`UnaryMap`: operators that map every channel by itself, alike for all channels."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.channel_parameters import ChannelParameters
from gate2static.prune.rules.unary_map import UnaryMap
from tests.prune.rules.toys import VIEWS, After, Toy, calls, kinds_of, make_toy


def _softmax_of_heads(x: Tensor) -> Tensor:
    """Tokens (N, L, 4) as two heads of two channels, each with a softmax over its channels."""
    heads: Tensor = x.unflatten(2, (2, 2))
    return heads.softmax(-1)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(torch.tanh))


@pytest.fixture(scope="module")
def heads() -> Toy:
    return make_toy(After(_softmax_of_heads, tokens=True))


def test_it_takes_activations_poolings_and_what_works_along_positions() -> None:
    layers = (torch.tanh, nn.GELU(), nn.MaxPool2d(2), lambda x: F.interpolate(x, scale_factor=2), lambda x: x.mean(2))
    assert kinds_of(*layers) == [UnaryMap] * 5


def test_it_leaves_what_works_along_the_channels_and_what_has_parameters() -> None:
    layers = (lambda x: x.softmax(1), nn.Softmax(1), lambda x: F.max_pool3d(x, 2), nn.PReLU(4))
    assert kinds_of(*layers) == [Barrier, Barrier, Barrier, ChannelParameters]


def test_channels_keep_their_numbers_and_their_need(toy: Toy) -> None:
    rule = toy.rule(UnaryMap)
    assert toy.views(rule) == VIEWS
    assert toy.need_of_inputs(rule, "1000", "0110", "0000") == [["1000", "0110", "0000"]]
    assert toy.origins(rule) == [(0, list(range(16)))]


def test_what_works_along_one_of_the_channel_dimensions_reads_all_channels_along_it(heads: Toy) -> None:
    rule = heads.rule(UnaryMap)
    assert rule.dims == (2,)  # a head is one channel: its two numbers belong together
    # Pairs of channels, numbered as they sort: 0 (0 1), 1 (4 9), 2 (6 11), 3 (10 11), 4 (12 13), 5 (14 11).
    assert heads.views(rule) == [[0, 3], [1, 2], [4, 5]]
    assert heads.need_of_inputs(rule, "10", "00", "01") == [["10", "00", "01"]]


def test_a_size_that_it_reads_is_needed_with_any_channel() -> None:
    toy = make_toy(After(lambda x: x.clamp(max=x.shape[0])))
    assert toy.need_of_inputs(toy.rule(UnaryMap), "1000", "0000", "0011") == [["1000", "0000", "0011"], ["1", "0", "1"]]
    toy.static()


def test_it_runs_once_on_the_tensor_that_holds_the_channels(toy: Toy, heads: Toy) -> None:
    assert calls(toy.static()) == ["Conv2d", "tanh", "narrow", "index_select"]
    assert calls(heads.static()).count("softmax") == 1


def test_a_dimension_is_named_as_it_lies_in_the_emitted_tensor() -> None:
    # Heads (N, 2, L, 2) are emitted as (N, L, channels): their third dimension is the second there.
    toy = make_toy(After(lambda x: x.unflatten(2, (2, 2)).transpose(1, 2).cumsum(2), tokens=True))
    (cumsum,) = (node for node in toy.static().graph.nodes if node.target == "cumsum")
    assert cumsum.args[1] == 1


def test_a_reduction_over_a_dimension_in_front_moves_the_channels_forward() -> None:
    toy = make_toy(After(lambda x: x.mean(1), tokens=True))
    assert toy.rule(UnaryMap).dims == (1,)  # (N, L, 4) -> (N, 4)
    toy.static()
