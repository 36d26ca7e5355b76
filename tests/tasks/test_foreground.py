"""Masks, edges and saliency: losses and metrics, with pixels that are to be ignored."""

import pytest
import torch
from torch.nn import functional as F

from gate2static.tasks import KINDS, Task, TaskMetrics

MASK, EDGES, SALIENCY = (Task(name=kind, kind=KINDS[kind], channels=1) for kind in ("mask", "edges", "saliency"))


def maps(images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets; a fifth of the pixels is to be ignored."""
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(images, 1, 10, 10, generator=generator) > 0.7).float()
    target[:, :, :2] = 255
    return torch.randn(images, 1, 10, 10, generator=generator), target


def test_the_mask_loss_is_binary_cross_entropy_over_the_valid_pixels() -> None:
    logits, target = maps()
    expected = F.binary_cross_entropy_with_logits(logits[:, :, 2:], target[:, :, 2:])
    assert MASK.loss(logits, target).item() == pytest.approx(expected.item())


def test_the_edge_loss_weighs_edges_by_095_and_the_rest_by_005() -> None:
    logits, target = maps()
    logits_in, target_in = logits[:, :, 2:], target[:, :, 2:]
    on = F.softplus(-logits_in)[target_in == 1].sum()
    off = F.softplus(logits_in)[target_in == 0].sum()
    assert EDGES.loss(logits, target).item() == pytest.approx(((0.95 * on + 0.05 * off) / target_in.numel()).item())


def test_the_saliency_loss_balances_by_the_batchs_share_of_background() -> None:
    logits, target = maps()
    logits_in, target_in = logits[:, :, 2:], target[:, :, 2:]
    weight = (target_in == 0).float().mean()
    on = F.softplus(-logits_in)[target_in == 1].sum()
    off = F.softplus(logits_in)[target_in == 0].sum()
    expected = (weight * on + (1 - weight) * off) / target_in.numel()
    assert SALIENCY.loss(logits, target).item() == pytest.approx(expected.item())


def test_the_edge_metric_is_the_loss_of_the_whole_split() -> None:
    logits, target = maps()
    metrics = TaskMetrics(EDGES)
    metrics.update(logits[:1], target[:1])
    metrics.update(logits[1:], target[1:])
    assert metrics.compute() == {"loss": pytest.approx(EDGES.loss(logits, target).item())}


def test_iou_ignores_what_is_to_be_ignored() -> None:
    logits, target = maps()
    metrics = TaskMetrics(MASK)
    metrics.update(logits, target)
    found, wanted = logits[:, :, 2:] > 0, target[:, :, 2:] == 1
    assert metrics.compute()["IoU"] == pytest.approx(((found & wanted).sum() / (found | wanted).sum()).item())


def test_saliency_is_measured_by_image_at_the_best_threshold() -> None:
    logits, target = maps()
    target[2, :, 2:] = 0
    metrics = TaskMetrics(SALIENCY)
    metrics.update(logits[:2], target[:2])
    metrics.update(logits[2:], target[2:])
    ious, scores = [], []
    for threshold in torch.linspace(0.2, 0.9, 15):
        by_image = []
        for probability, wanted_map in zip(logits.sigmoid(), target, strict=True):
            found, wanted = (probability > threshold)[:, 2:], (wanted_map == 1)[:, 2:]
            hits = (found & wanted).sum()
            either = (found | wanted).sum()
            iou = hits / either if either else torch.tensor(1.0)
            by_image.append([iou, hits / found.sum().clamp(min=1), hits / wanted.sum().clamp(min=1)])
        iou, precision, recall = torch.tensor(by_image).mean(0)
        ious.append(iou.item())
        scores.append((2 * precision * recall / (precision + recall + 1e-12)).item())
    assert metrics.compute() == {"mIoU": pytest.approx(max(ious)), "maxF": pytest.approx(max(scores))}


def test_a_perfect_map_has_an_miou_of_one() -> None:
    _, target = maps()
    metrics = TaskMetrics(SALIENCY)
    metrics.update((target - 0.5) * 20, target)
    assert metrics.compute() == {"mIoU": pytest.approx(1), "maxF": pytest.approx(1)}


@pytest.mark.parametrize(("logit", "miou"), [(-9.0, 1), (9.0, 0)])
def test_where_nothing_is_salient_finding_nothing_is_right(logit: float, miou: float) -> None:
    metrics = TaskMetrics(SALIENCY)
    metrics.update(torch.full((1, 1, 4, 4), logit), torch.zeros(1, 1, 4, 4))
    assert metrics.compute() == {"mIoU": miou, "maxF": 0}
