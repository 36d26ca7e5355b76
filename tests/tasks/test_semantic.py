"""Semantic segmentation: the loss and mIoU, with pixels that are to be ignored."""

import pytest
import torch
from torch.nn import functional as F

from gate2static.tasks import KINDS, Task, TaskMetrics

TASK = Task(name="seg", kind=KINDS["semantic"], channels=4)


def logits_of(classes: torch.Tensor, channels: int = 4) -> torch.Tensor:
    return F.one_hot(classes, channels).movedim(-1, 1).float()


def test_ignored_pixels_count_neither_in_the_loss_nor_in_the_metrics() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(2, 4, 3, 5), torch.randint(4, (2, 3, 5))
    classes[:, 0] = 255
    assert TASK.loss(logits, classes).item() == pytest.approx(F.cross_entropy(logits[:, :, 1:], classes[:, 1:]).item())
    metrics = TaskMetrics(TASK)
    metrics.update(logits, classes)
    right = (logits.argmax(1) == classes)[:, 1:].double().mean()
    assert metrics.compute()["pixel_accuracy"] == pytest.approx(right.item())


def test_miou_is_the_mean_over_the_classes_of_the_split() -> None:
    # Of these, class 2 is found once but never there, and class 3 is in no map at all.
    classes, found = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 1, 2]]])
    metrics = TaskMetrics(TASK)
    metrics.update(logits_of(found), classes)
    assert metrics.compute()["mIoU"] == pytest.approx((1 + 1 / 2) / 2)
    metrics.update(logits_of(torch.tensor([[[0]]])), torch.tensor([[[1]]]))
    assert metrics.compute()["mIoU"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_miou_counts_pixels_of_all_batches() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(5, 4, 6, 6), torch.randint(4, (5, 6, 6))
    metrics = TaskMetrics(TASK)
    for part in (slice(0, 4), slice(4, 5)):
        metrics.update(logits[part], classes[part])
    found = logits.argmax(1)
    ious = [((found == c) & (classes == c)).sum() / ((found == c) | (classes == c)).sum() for c in range(4)]
    assert metrics.compute()["mIoU"] == pytest.approx(torch.stack(ious).mean().item())
