"""Maps of what is in the foreground: edges, saliency and plain masks. Outputs and targets (N, 1, H, W).

Targets are 0, 1, or 255 where they are to be ignored. Edges and salient objects fill little of an image, so their
losses weigh pixels of the foreground by w and others by 1 - w, as in Vandenhende et al. (2020), which appendix A of the
paper follows: w = 0.95 for edges, and a batch's share of background for saliency.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from gate2static.data.contract import IGNORE
from gate2static.tasks.kind import Kind, mean_over

if TYPE_CHECKING:
    from torchmetrics import Metric

EDGE_WEIGHT = 0.95
THRESHOLDS = (0.2, 0.9, 15)
"""First, last and number of those at which saliency is scored; the best one for a whole split is reported, for mIoU and
for maxF, the harmonic mean of mean precision and mean recall (Vandenhende et al., 2020)."""


def _pixel_losses(logits: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """Binary cross-entropy of every pixel, weighted; meaningless where the target is to be ignored."""
    weights = target * weight + (1 - target) * (1 - weight)
    return weights * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _valid(target: Tensor) -> Tensor:
    return target != IGNORE


def _mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    return mean_over(_valid(target), F.binary_cross_entropy_with_logits(logits, target, reduction="none"))


def _edge_loss(logits: Tensor, target: Tensor) -> Tensor:
    return mean_over(_valid(target), _pixel_losses(logits, target, EDGE_WEIGHT))


def _saliency_loss(logits: Tensor, target: Tensor, mean: float | None = None) -> Tensor:
    valid = _valid(target)
    return mean_over(valid, _pixel_losses(logits, target, 1 - (mean_over(valid, target) if mean is None else mean)))


def _prepare_mask(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    # Decided here: torchmetrics takes logits that all lie between 0 and 1 for probabilities and cuts them at 0.5.
    valid = _valid(target)
    return (logits > 0)[valid].long(), target[valid].long()


def _prepare_edges(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return (_pixel_losses(logits, target, EDGE_WEIGHT)[_valid(target)],)


def _prepare_saliency(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """IoU, precision and recall of every image with a valid pixel at every threshold: (N, 3, thresholds)."""
    images = _valid(target).flatten(1).any(dim=1)
    probabilities, target = logits.sigmoid()[images], target[images]
    thresholds = torch.linspace(*THRESHOLDS, device=logits.device, dtype=logits.dtype)
    count, bins = len(target), len(thresholds) + 1
    image = torch.arange(count, device=target.device).view(-1, 1, 1, 1)
    # bin > t exactly where the probability is above threshold t, so one histogram serves all thresholds.
    bin_ = torch.bucketize(probabilities, thresholds)
    flat = ((image * bins + bin_) * 2 + target.long())[(target == 0) | (target == 1)]
    histogram = torch.bincount(flat, minlength=count * bins * 2).view(count, bins, 2).double()
    above = histogram.flip(1).cumsum(1).flip(1)[:, 1:]
    found, hits = above.sum(2), above[:, :, 1]
    wanted = histogram[:, :, 1].sum(1, keepdim=True)
    either = found + wanted - hits
    # An image with nothing salient is got right by finding nothing.
    iou = torch.where(either > 0, hits / either.clamp(min=1), 1.0)
    return (torch.stack([iou, hits / found.clamp(min=1), hits / wanted.clamp(min=1)], dim=1),)


def _mask_metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.classification import BinaryJaccardIndex

    return {"IoU": BinaryJaccardIndex(validate_args=False)}


def _edge_metrics(channels: int) -> "dict[str, Metric]":
    from gate2static.tasks.measures import MeanOf

    return {"loss": MeanOf(lambda losses: losses)}


def _saliency_metrics(channels: int) -> "dict[str, Metric]":
    from gate2static.tasks.measures import BestThreshold

    return {
        "mIoU": BestThreshold(lambda iou, precision, recall: iou, THRESHOLDS[2]),
        "maxF": BestThreshold(
            lambda iou, precision, recall: 2 * precision * recall / (precision + recall).clamp(min=1e-12), THRESHOLDS[2]
        ),
    }


MASK = Kind(
    metric_name="IoU",
    higher_is_better=True,
    loss=_mask_loss,
    prepare=_prepare_mask,
    metrics=_mask_metrics,
    dense=True,
    valid=_valid,
)
EDGES = Kind(
    metric_name="loss",
    higher_is_better=False,
    loss=_edge_loss,
    prepare=_prepare_edges,
    metrics=_edge_metrics,
    dense=True,
    valid=_valid,
)
SALIENCY = Kind(
    metric_name="mIoU",
    higher_is_better=True,
    loss=_saliency_loss,
    prepare=_prepare_saliency,
    metrics=_saliency_metrics,
    dense=True,
    valid=_valid,
    weighs_by_mean=True,
)
