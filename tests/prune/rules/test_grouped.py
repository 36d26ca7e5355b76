"""`Grouped`: a convolution with groups, cut group by group."""

import pytest
import torch
from torch import nn

from gate2static.prune.rules import Dense
from gate2static.prune.rules.channel_parameters import ChannelParameters
from gate2static.prune.rules.grouped import Grouped
from tests.prune.rules.toys import OWN, After, Toy, kinds_of, layers, make_toy


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Two groups, each from two channels to two; of the four results a head reads the first three."""
    backbone = After(torch.relu, nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), FirstThree()))
    return make_toy(backbone, {"last_0": OWN})


class FirstThree(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3]


def test_it_takes_layers_with_groups_but_not_depth_wise_ones() -> None:
    taken = (nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(4, 8, 3, groups=4))
    others = (nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=1))
    assert kinds_of(*taken, *others) == [Grouped, Grouped, ChannelParameters, Dense]


def test_every_stream_has_output_channels_of_its_own(toy: Toy) -> None:
    assert toy.views(toy.rule(Grouped)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_an_output_needs_all_inputs_of_its_group(toy: Toy) -> None:
    assert toy.need_of_inputs(toy.rule(Grouped), "1000", "0001", "0110") == [["1100", "0011", "1111"]]


def test_macs_are_proportional_to_the_needed_outputs(toy: Toy) -> None:
    # Three outputs, each with 3 · 3 weights for 2 inputs, at 6 · 6 positions.
    assert toy.macs(toy.rule(Grouped), "1000", "0000", "0011") == 3 * (9 * 2) * 36


def test_groups_with_equally_many_live_outputs_run_as_one_layer(toy: Toy) -> None:
    assert toy.live(toy.rule(Grouped)) == [0, 1, 2, 4, 5, 6]
    _, one_each, two_each = layers(toy.static(), nn.Conv2d)
    # The second groups of a and b have one live output each, the first ones have two.
    assert (one_each.groups, one_each.in_channels, one_each.out_channels) == (2, 4, 2)
    assert (two_each.groups, two_each.in_channels, two_each.out_channels) == (2, 4, 4)


def test_a_transposed_layer_is_cut_along_its_other_dimension() -> None:
    backbone = After(torch.relu, nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2), FirstThree()))
    toy = make_toy(backbone, {"last_0": OWN})
    one_each, two_each = layers(toy.static(), nn.ConvTranspose2d)
    assert (one_each.weight.shape, two_each.weight.shape) == ((4, 1, 2, 2), (4, 2, 2, 2))
