"""The plan: which channels the static network computes, decided before anything is built."""

import pytest
import torch
from torch import nn

from gate2static.prune.plan import keep_needed
from gate2static.prune.rules import Dense
from gate2static.prune.rules.gate import GateRule
from tests.prune.rules.toys import OWN, After, Toy, make_toy, needed


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Two layers; both tasks keep the second one's channels apart."""
    return make_toy(After(torch.relu, nn.Conv2d(4, 4, 1)), {"last": OWN})


def test_channels_that_the_outputs_need_live(toy: Toy) -> None:
    plan = keep_needed(toy.analysis)
    first, last = toy.rules(Dense)
    assert plan.live[first.node].tolist() == [0, 1, 4, 6, 9, 10, 11]  # 0 1 10 11 of a and 4 9 6 11 of b
    assert plan.live[last.node].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]  # the shared stream is read by nobody
    assert torch.equal(plan.needs[first.node], needed("1100", "1010", "0111"))
    assert plan.numberings[toy.rule(GateRule).node].views[0].tolist() == [0, 1, 2, 3]
    assert not plan.is_filled_up


@pytest.mark.parametrize(
    ("align", "of_first"),
    [
        (2, [0, 1, 4, 6, 8, 9, 10, 11]),  # a and b have two channels each, the shared stream gets a fourth
        (3, [0, 1, 2, 4, 5, 6, 9, 10, 11]),
        (4, list(range(12))),
        (100, list(range(12))),  # all that there are
    ],
)
def test_dead_channels_fill_up_the_layer_of_each_stream(toy: Toy, align: int, of_first: list[int]) -> None:
    plan = keep_needed(toy.analysis, align=align)
    assert sorted(plan.live[toy.rules(Dense)[0].node].tolist()) == of_first
    assert plan.live[toy.rules(GateRule)[0].node].tolist() == [0, 1, 4, 6, 9, 10, 11]  # computed, and not read
    assert plan.is_filled_up


def test_macs_are_those_of_the_live_channels(toy: Toy) -> None:
    plan = keep_needed(toy.analysis)
    first, last = (layer.node for layer in toy.rules(Dense))
    assert plan.macs([first]) == 7 * 3 * 36  # each output reads 3 channels at 6 · 6 positions
    assert plan.macs([last]) == 8 * 4 * 36
    assert plan.macs() == plan.macs([first, last])
    assert keep_needed(toy.analysis, align=4).macs([first]) == 12 * 3 * 36
