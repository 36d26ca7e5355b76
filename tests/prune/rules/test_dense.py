"""`Dense`: a convolution without groups or a linear layer; every stream has weights of its own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gate2static.prune.emission.layout import LAYOUT, PLAIN
from gate2static.prune.rules import Barrier, Dense
from gate2static.prune.rules.grouped import Grouped
from tests.prune.rules.toys import OWN, After, Toy, calls, kinds_of, layers, make_toy


class Doubled(nn.Conv2d):
    """Computes something else than the class that it is made from."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Two dense layers; the second reads what the gate of the first lets through."""
    return make_toy(After(torch.relu, nn.Conv2d(4, 4, 3, padding=1)), {"last": OWN})


def test_it_takes_convolutions_and_linear_layers_but_not_those_with_groups_or_a_forward_of_their_own() -> None:
    taken = (nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 2), nn.Linear(6, 4))
    others = (nn.Conv2d(4, 6, 3, groups=2), Doubled(4, 6, 3))
    assert kinds_of(*taken, *others) == [Dense, Dense, Dense, Grouped, Barrier]


def test_every_stream_has_output_channels_of_its_own(toy: Toy) -> None:
    assert toy.views(toy.rule(Dense)) == [
        [0, 1, 2, 3],  # task a's layer
        [4, 5, 6, 7],  # task b's
        [8, 9, 10, 11],  # the shared stream's
    ]


def test_a_layer_with_a_needed_output_needs_all_its_inputs(toy: Toy) -> None:
    assert toy.need_of_inputs(toy.rule(Dense), "0100", "0000", "1111") == [["1111", "0000", "1111"]]


def test_macs_are_proportional_to_the_needed_outputs(toy: Toy) -> None:
    # Three outputs, each with 3 · 3 weights for every one of 4 inputs, at 6 · 6 positions.
    assert toy.macs(toy.rule(Dense), "0100", "0000", "0011") == 3 * (9 * 4) * 36


def test_streams_that_read_the_same_run_as_one_layer(toy: Toy) -> None:
    # All streams of `first` read the image. Of its channels, a reads 0 1 10 11 and b reads 4 9 6 11.
    assert toy.live(toy.rules(Dense)[0]) == [0, 1, 4, 6, 9, 10, 11]
    first, of_a, of_b = layers(toy.static(), nn.Conv2d)
    assert first.out_channels == 7
    assert (of_a.in_channels, of_a.out_channels) == (of_b.in_channels, of_b.out_channels) == (4, 4)


def test_weights_are_permuted_instead_of_channels(toy: Toy) -> None:
    static = toy.static()
    # The channels lie as 0 1 10 | 11 | 4 6 9, what both tasks read in the middle: each reads one slice.
    assert calls(static) == ["Conv2d", "relu", "narrow", "Conv2d", "narrow", "Conv2d"]
    _, _, of_b = layers(static, nn.Conv2d)
    weight = toy.gated.branches["b"].get_parameter("last.weight")
    assert torch.equal(of_b.weight, weight[:, [3, 0, 2, 1]])  # 11 4 6 9, where b's own weight has 4 9 6 11


def test_every_block_is_a_layer_of_its_own(toy: Toy) -> None:
    *blocks, _, _ = layers(toy.static(replace(LAYOUT, block_channels=1)), nn.Conv2d)
    # By maker and readers: 0 1 | 10 (made by the shared layer, read by a) | 11 | 4 6 | 9
    assert sorted(layer.out_channels for layer in blocks) == [1, 1, 1, 2, 2]


def test_streams_stay_apart_where_moves_become_convolutions(toy: Toy) -> None:
    *first, _, _ = layers(toy.static(replace(PLAIN, convolve_moves=True)), nn.Conv2d)
    assert [layer.out_channels for layer in first] == [2, 2, 3]  # 0 1 of a, 4 6 of b, 9 10 11 of the shared stream
