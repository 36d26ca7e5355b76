"""Need: liveness for 0 and 1, a differentiable probability of it between."""

import numpy as np
import pytest
import torch

from gate2static.prune.analysis.need import any_of, any_reader, either, readers
from gate2static.prune.analysis.numbering import Numbering


@pytest.mark.parametrize(("a", "b", "expected"), [(0, 0, 0), (1, 0, 1), (1, 1, 1), (0.5, 0.5, 0.75), (0.2, 0, 0.2)])
def test_either_of_two_is_needed(a: float, b: float, expected: float) -> None:
    assert float(either(torch.tensor(a), torch.tensor(b))) == pytest.approx(expected)


def test_any_along_a_dimension_is_needed() -> None:
    need = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5]])
    assert any_of(need, 1).tolist() == [[0], [1], [0.875]]  # 1 - 0.5³


def test_a_pool_channel_is_needed_where_any_of_its_readers_is() -> None:
    views = np.array([[0, 1], [0, 2]])  # both streams read channel 0; nobody reads channel 3
    need = torch.tensor([[0.5, 1.0], [0.5, 0.0]])
    assert any_reader(need, views, 4).tolist() == [0.75, 1, 0, 0]


@pytest.mark.parametrize(("needs", "slope"), [([1.0, 1.0], 0.0), ([1.0, 0.0], 1.0), ([0.5, 0.25], 0.75)])
def test_the_slope_is_the_need_that_no_other_reader_has(needs: list[float], slope: float) -> None:
    need = torch.tensor([needs], requires_grad=True)
    any_reader(need, np.array([[0, 0]]), 1).sum().backward()
    assert need.grad is not None
    assert float(need.grad[0, 0]) == slope


def test_readers_are_bits() -> None:
    views = np.array([[0, 1, 10], [4, 1, 6], [1, 1, 1]])
    need = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    bits = readers(Numbering(views, 11), need)
    # Stream 0 reads channels 0 and 1, stream 1 reads 4 and 1, stream 2 reads 1.
    assert bits.tolist() == [0b001, 0b111, 0, 0, 0b010, 0, 0, 0, 0, 0, 0]
