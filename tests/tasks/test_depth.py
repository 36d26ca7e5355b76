"""Depth: the loss and the errors over valid pixels."""

import math

import pytest
import torch

from gate2static.tasks import KINDS, Task, TaskMetrics

TASK = Task(name="depth", kind=KINDS["depth"], channels=1)
TRUE = torch.tensor([1.0, 2.0, 4.0, 0.0, -1.0]).view(1, 1, 1, 5)
FOUND = torch.tensor([1.2, 2.0, 3.0, 9.0, 9.0]).view(1, 1, 1, 5)


def test_the_loss_is_l1_over_the_valid_pixels() -> None:
    assert TASK.loss(FOUND, TRUE).item() == pytest.approx(1.2 / 3)


def test_errors_are_over_the_valid_pixels_of_all_batches() -> None:
    metrics = TaskMetrics(TASK)
    metrics.update(FOUND[..., :2], TRUE[..., :2])
    metrics.update(FOUND[..., 2:], TRUE[..., 2:])
    assert metrics.compute() == {
        "rmse": pytest.approx(math.sqrt((0.04 + 1) / 3)),
        "abs_error": pytest.approx(1.2 / 3),
        "rel_error": pytest.approx((0.2 + 0 + 0.25) / 3),
        # 4 / 3 is above 1.25, 1.2 and 1 are below.
        "within_1.25": pytest.approx(2 / 3),
    }


def test_depths_that_are_not_positive_are_never_close() -> None:
    metrics = TaskMetrics(TASK)
    metrics.update(torch.tensor([-1.0, 0.0]).view(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert metrics.compute()["within_1.25"] == 0
