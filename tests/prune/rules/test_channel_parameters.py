"""`ChannelParameters`: batch norm, depth-wise convolution and other layers that map every channel by itself."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.channel_parameters import ChannelParameters
from gate2static.prune.rules.grouped import Grouped
from tests.prune.rules.toys import OWN, VIEWS, After, Toy, kinds_of, layers, make_toy


class Blur(nn.Module):
    """A fixed filter, the same for all channels and streams."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.ones(4, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filter, padding=1, groups=4)


@pytest.fixture(scope="module")
def norm() -> Toy:
    """A batch norm that ends the unit of `first`."""
    return make_toy(After(nn.BatchNorm2d(4)))


@pytest.fixture(scope="module")
def depthwise() -> Toy:
    """A depth-wise convolution behind the gate of `first`."""
    return make_toy(After(torch.relu, nn.Conv2d(4, 4, 3, padding=1, groups=4)), {"last": OWN})


@pytest.fixture(scope="module")
def blur() -> Toy:
    return make_toy(After(torch.relu, Blur()), {"last_filter_1": OWN})


def test_it_takes_layers_with_one_filter_per_channel_but_no_others() -> None:
    taken = (nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.InstanceNorm2d(4, affine=True), nn.PReLU(4), Blur())
    two_per_channel = nn.Conv2d(4, 8, 3, groups=4)
    by_batch = nn.BatchNorm2d(4, track_running_stats=False)
    assert kinds_of(*taken, two_per_channel, by_batch) == [*[ChannelParameters] * 5, Grouped, Barrier]


def test_behind_its_layer_a_norm_keeps_the_layers_numbers(norm: Toy) -> None:
    (rule,) = norm.rules(ChannelParameters)
    assert norm.views(rule) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_behind_a_gate_every_stream_maps_channels_with_parameters_of_its_own(depthwise: Toy) -> None:
    rule = depthwise.rule(ChannelParameters)
    assert depthwise.views(rule) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    sources = depthwise.numbering(rule).sources
    assert sources is not None
    assert sources.tolist() == [  # the channel of the source, and stream · 4 + channel of the parameters
        [0, 0], [1, 1], [10, 2], [11, 3],  # task a
        [4, 4], [9, 5], [6, 6], [11, 7],  # task b: 11 is read by both, and mapped by the filters of each
        [12, 8], [13, 9], [14, 10], [11, 11],
    ]  # fmt: skip


def test_a_fixed_filter_maps_a_channel_that_streams_share_once(blur: Toy) -> None:
    # Of VIEWS, in their order; 11, which all streams read, is one channel.
    assert blur.views(blur.rule(ChannelParameters)) == [[0, 1, 5, 6], [2, 4, 3, 6], [7, 8, 9, 6]]


def test_a_channel_needs_its_own_source(depthwise: Toy) -> None:
    rule = depthwise.rule(ChannelParameters)
    assert depthwise.need_of_inputs(rule, "1000", "0001", "0110") == [["1000", "0001", "0110"]]
    assert depthwise.origins(rule) == [(0, VIEWS[0] + VIEWS[1] + VIEWS[2])]


def test_macs_are_those_of_the_filters_that_differ(depthwise: Toy, blur: Toy) -> None:
    one_filter = 9 * 36  # 3 · 3 weights at 6 · 6 positions
    assert depthwise.macs(depthwise.rule(ChannelParameters), "0001", "0001", "0001") == 3 * one_filter
    assert blur.macs(blur.rule(ChannelParameters), "0001", "0001", "0001") == one_filter


def test_parameters_are_sliced_to_the_live_channels(norm: Toy, depthwise: Toy, blur: Toy) -> None:
    (batch_norm,) = layers(norm.static(), nn.BatchNorm2d)
    assert batch_norm.num_features == 7  # 0 1 10 11 of a, 4 9 6 11 of b
    _, of_a, of_b = layers(depthwise.static(), nn.Conv2d)
    assert (of_a.groups, of_b.groups) == (4, 4)
    assert torch.equal(of_a.weight, depthwise.gated.branches["a"].get_parameter("last.weight"))
    _, *blurring = layers(blur.static(), nn.Conv2d)
    assert [layer.groups for layer in blurring] == [3, 1, 3]  # what a alone, both tasks and b alone read
