"""`Barrier`: everything without a rule runs on whole values, once for every distinct one."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.prune.rules import Barrier
from tests.prune.rules.toys import OWN, SHARED, After, Toy, bits, calls, kinds_of, make_toy, needed


class Mixed(nn.Module):
    """A user's layer that nothing knows; it reads `training`, so it stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) @ (self.weight * (2 if self.training else 1))).movedim(-1, 1)


def _cumulated(x: Tensor) -> Tensor:
    return x.cumsum(1)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(_cumulated))


@pytest.fixture(scope="module")
def layer() -> Toy:
    """A barrier that is a unit, with parameters of its own for each stream."""
    return make_toy(After(torch.relu, Mixed()), {"last": OWN})


def test_it_takes_what_no_other_rule_takes() -> None:
    assert kinds_of(_cumulated, Mixed(), lambda x: x.sort(1).values) == [Barrier] * 3


def test_every_distinct_value_is_one_opaque_channel(toy: Toy) -> None:
    assert toy.rule(Barrier).dims is None
    assert toy.views(toy.rule(Barrier)) == [[0], [1], [2]]
    shared = make_toy(After(_cumulated), {"first": SHARED})
    assert shared.views(shared.rule(Barrier)) == [[0], [0], [0]]  # all streams read the same
    for_one_input = make_toy(After(torch.relu, Mixed()), {"first": SHARED, "last": OWN})
    assert for_one_input.views(for_one_input.rule(Barrier)) == [[0], [1], [2]]  # by parameters of their own


def test_a_result_needs_its_input_whole(toy: Toy) -> None:
    (source,) = toy.rule(Barrier).inputs
    assert toy.need_of_inputs(toy.rule(Barrier), "1", "0", "0") == [["1", "0", "0"]]
    assert bits(source.need_of_value(needed("1", "0", "0"))) == ["1111", "0000", "0000"]


def test_macs_are_those_of_the_values_that_are_needed(layer: Toy) -> None:
    # 4 results of 4 products, at 6 · 6 positions, for two streams.
    assert layer.macs(layer.rule(Barrier), "1", "0", "1") == 2 * (4 * 4) * 36


def test_it_runs_once_per_distinct_value(toy: Toy) -> None:
    assert calls(toy.static()) == ["Conv2d", "narrow", "cumsum", "index_select", "cumsum"]
    shared = make_toy(After(_cumulated), {"first": SHARED})
    assert calls(shared.static()) == ["Conv2d", "cumsum"]


def test_a_users_module_gets_a_copy_of_its_input_because_it_may_write_into_it(layer: Toy) -> None:
    assert calls(layer.static()) == ["Conv2d", "relu", "narrow", "clone", "Mixed", "index_select", "clone", "Mixed"]
