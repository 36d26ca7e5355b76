"""`GroupNorm`: a norm over groups of channels."""

import pytest
import torch
from torch import nn

from gate2static.prune.rules.group_norm import GroupNorm
from gate2static.prune.rules.unary_map import UnaryMap
from tests.prune.rules.toys import After, Toy, kinds_of, layers, make_toy


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Two groups of two channels; both tasks take their own first channel, and the others of the shared stream."""
    return make_toy(After(torch.relu, nn.GroupNorm(2, 4)), {"last": ("1000", "1000")})


def test_it_takes_group_norms_but_no_norms_of_single_channels() -> None:
    assert kinds_of(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)) == [GroupNorm, UnaryMap]


def test_every_stream_has_results_of_its_own(toy: Toy) -> None:
    assert toy.views(toy.rule(GroupNorm)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_result_needs_all_channels_of_its_group(toy: Toy) -> None:
    assert toy.need_of_inputs(toy.rule(GroupNorm), "1000", "0000", "0011") == [["1100", "0000", "0011"]]


def test_the_live_groups_of_all_streams_run_as_one_layer(toy: Toy) -> None:
    assert toy.live(toy.rule(GroupNorm)) == [0, 4, 9, 10, 11]
    (norm,) = layers(toy.static(), nn.GroupNorm)
    # The first group of a and of b, and both of the shared stream: each with channels that only the statistics need.
    assert (norm.num_groups, norm.num_channels) == (4, 8)
    weights = {stream: branch.get_parameter("last.weight") for stream, branch in toy.gated.branches.items()}
    assert torch.equal(norm.weight, torch.cat([weights["a"][:2], weights["b"][:2], weights["shared"]]))
