"""Surface normals: losses and angular errors over valid pixels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from gate2static.tasks import KINDS, Task, TaskMetrics

TASK = Task(name="normals", kind=KINDS["normals"], channels=3)
COSINE = Task(name="normals", kind=KINDS["normals_cosine"], channels=3)


def turned(degrees: list[float], length: float = 1.0) -> torch.Tensor:
    """Normals (1, 3, 1, N), each turned out of the z axis."""
    angles = torch.tensor(degrees).deg2rad()
    return length * torch.stack([angles.sin(), torch.zeros_like(angles), angles.cos()]).view(1, 3, 1, -1)


def straight(count: int) -> torch.Tensor:
    return turned([0.0] * count)


def test_the_loss_is_l1_between_directions_over_the_valid_pixels() -> None:
    torch.manual_seed(0)
    output, true = torch.randn(2, 3, 4, 4), F.normalize(torch.randn(2, 3, 4, 4), dim=1)
    expected = (F.normalize(output[..., 1:], dim=1) - true[..., 1:]).abs().mean()
    true[..., 0] = 0
    assert TASK.loss(output, true).item() == pytest.approx(expected.item())
    assert TASK.loss(5 * output, true).item() == pytest.approx(expected.item())


def test_the_cosine_loss_is_one_minus_the_cosine() -> None:
    true = straight(3)
    true[..., 2] = 0
    assert COSINE.loss(turned([0.0, 60.0, 77.0], length=3), true).item() == pytest.approx((0 + 0.5) / 2, abs=1e-6)


@pytest.mark.parametrize("task", [TASK, COSINE])
def test_an_output_of_zero_gets_a_bounded_gradient(task: Task) -> None:
    output = torch.zeros(1, 3, 1, 1, requires_grad=True)
    task.loss(output, straight(1)).backward()
    assert output.grad is not None
    assert 0 < output.grad.abs().max() <= 1e3


def test_angular_errors_are_in_degrees_over_the_valid_pixels_of_all_batches() -> None:
    metrics = TaskMetrics(TASK)
    metrics.update(turned([5.0, 20.0], length=0.1), straight(2))
    true = straight(4)
    true[..., 3] = 0
    metrics.update(turned([25.0, 35.0, 130.0, 99.0], length=7), true)
    assert metrics.compute() == {
        "mErr": pytest.approx((5 + 20 + 25 + 35 + 130) / 5, rel=1e-5),
        "median": pytest.approx(25, abs=0.011),
        "within_11.25": pytest.approx(1 / 5),
        "within_22.5": pytest.approx(2 / 5),
        "within_30": pytest.approx(3 / 5),
    }


@given(st.lists(st.floats(0, 180), min_size=1, max_size=9).filter(lambda angles: len(angles) % 2))
def test_the_median_is_within_a_hundredth_of_a_degree(angles: list[float]) -> None:
    metrics = TaskMetrics(TASK)
    metrics.update(turned(angles), straight(len(angles)))
    assert metrics.compute()["median"] == pytest.approx(torch.tensor(angles).median().item(), abs=0.011)


def test_equal_and_opposite_normals_are_measured_exactly() -> None:
    # The inverse cosine would give 0.02° and more for equal ones in float32.
    torch.manual_seed(0)
    true = F.normalize(torch.randn(1, 3, 20, 20), dim=1)
    for sign, degrees in ((1, 0), (-1, 180)):
        metrics = TaskMetrics(TASK)
        metrics.update(sign * true, true)
        assert metrics.compute()["mErr"] == pytest.approx(degrees, abs=1e-4)


def test_no_direction_at_all_is_a_right_angle_off() -> None:
    metrics = TaskMetrics(TASK)
    metrics.update(torch.zeros(1, 3, 1, 2), straight(2))
    assert metrics.compute()["mErr"] == pytest.approx(90)
    assert math.isclose(metrics.compute()["median"], 90, abs_tol=0.011)
