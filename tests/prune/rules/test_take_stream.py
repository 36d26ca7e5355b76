"""`TakeStream`: a head takes its task's stream."""

import pytest
import torch

from gate2static.prune.rules.rearrange import Rearrange
from gate2static.prune.rules.take_stream import TakeStream
from tests.prune.rules.toys import After, Toy, calls, kinds_of, make_toy


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(After(torch.relu))


def test_it_takes_the_hand_over_to_each_head_but_no_indexing_of_tensors(toy: Toy) -> None:
    assert [rule.info.streams for rule in toy.rules(TakeStream)] == [(0,), (1,)]
    assert kinds_of(lambda x: x.select(2, 1)) == [Rearrange]


def test_of_the_views_one_row_is_left(toy: Toy) -> None:
    for_a, for_b = toy.rules(TakeStream)
    assert toy.views(for_a) == [[0, 1, 10, 11]]
    assert toy.views(for_b) == [[4, 9, 6, 11]]


def test_the_other_streams_are_not_needed(toy: Toy) -> None:
    for_a, for_b = toy.rules(TakeStream)
    assert toy.need_of_inputs(for_a, "1010") == [["1010", "0000", "0000"]]
    assert toy.need_of_inputs(for_b, "1010") == [["0000", "1010", "0000"]]
    assert toy.origins(for_a) == [(0, list(range(16)))]


def test_nothing_is_emitted(toy: Toy) -> None:
    assert calls(toy.static()) == ["Conv2d", "relu", "narrow", "index_select"]  # what each head reads of the result
