"""`LayerNorm`: a norm over all channels of a stream."""

import pytest
import torch
from timm.layers.norm import LayerNorm2d
from torch import nn

from gate2static.prune.rules import Barrier
from gate2static.prune.rules.group_norm import GroupNorm
from gate2static.prune.rules.layer_norm import LayerNorm
from tests.prune.rules.toys import GATES, OWN, SHARED, After, Toy, kinds_of, layers, make_toy


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(torch.relu, nn.LayerNorm(4), tokens=True), {"last": OWN})


def test_it_takes_norms_over_the_channels_but_not_over_positions_too() -> None:
    norms = (nn.LayerNorm(4), nn.RMSNorm(4), nn.LayerNorm((5, 4)))
    assert kinds_of(*norms, tokens=True) == [LayerNorm, LayerNorm, Barrier]
    # On images, with the channels in front: one group of all channels has its statistics over positions, too.
    assert kinds_of(LayerNorm2d(4), nn.GroupNorm(1, 4)) == [LayerNorm, GroupNorm]


@pytest.mark.parametrize("gates", [GATES, SHARED])
def test_every_stream_has_results_of_its_own_whatever_it_reads(gates: tuple[str, str]) -> None:
    toy = make_toy(After(torch.relu, nn.LayerNorm(4), tokens=True), {"first": gates, "last": OWN})
    assert toy.views(toy.rule(LayerNorm)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("gates", "views"),
    [
        (GATES, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        (SHARED, [[0, 1, 2, 3]] * 3),  # all streams hold the same value, so they have the same result
    ],
)
def test_without_parameters_streams_that_hold_the_same_share_the_result(
    gates: tuple[str, str], views: list[list[int]]
) -> None:
    norm = nn.LayerNorm(4, elementwise_affine=False)
    toy = make_toy(After(torch.relu, norm, tokens=True), {"first": gates})
    assert toy.views(toy.rule(LayerNorm)) == views
    assert len(layers(toy.static(), nn.LayerNorm)) == len({*map(tuple, views[:2])})


def test_a_result_needs_all_channels_of_its_stream(toy: Toy) -> None:
    assert toy.need_of_inputs(toy.rule(LayerNorm), "0100", "0000", "0001") == [["1111", "0000", "1111"]]


def test_channels_are_read_as_they_lie_and_the_parameters_are_permuted(toy: Toy) -> None:
    of_a, of_b = layers(toy.static(), nn.LayerNorm)
    weights = {task: branch.get_parameter("last.weight") for task, branch in toy.gated.branches.items()}
    # `first` lies as 0 1 10 | 11 | 4 6 9. Task b reads 4 9 6 11 as the slice 11 4 6 9.
    assert torch.equal(of_a.weight, weights["a"])
    assert torch.equal(of_b.weight, weights["b"][[3, 0, 2, 1]])
