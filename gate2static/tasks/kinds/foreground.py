"""Foreground maps: edges, saliency and plain masks.

Outputs and targets are (N, 1, H, W). Targets are 0, 1, or 255 where they are ignored. Edges and salient objects cover
little of an image, so their losses weigh pixels of the foreground by w and others by 1 - w, as in Vandenhende et al.
(2020), which appendix A of the paper follows: w = 0.95 for edges, and a batch's share of background for saliency.
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
"""The first, the last and the number of thresholds at which saliency is scored (Vandenhende et al., 2020).

The best threshold for a whole split counts, for mIoU and for maxF, the harmonic mean of mean precision and mean recall.
"""


def _pixel_losses(logits: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """Returns the weighted binary cross-entropy of every pixel, which has no meaning where the target is ignored."""
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
    foreground = mean_over(valid, target) if mean is None else mean
    return mean_over(valid, _pixel_losses(logits, target, 1 - foreground))


def _prepare_mask(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    # Thresholded here, because torchmetrics takes logits that all lie in [0, 1] for probabilities and cuts them at 0.5.
    valid = _valid(target)
    return (logits > 0)[valid].long(), target[valid].long()


def _prepare_edges(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return (_pixel_losses(logits, target, EDGE_WEIGHT)[_valid(target)],)


def _prepare_saliency(logits: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Returns IoU, precision and recall of every image with a valid pixel, at every threshold: (N, 3, thresholds)."""
    has_valid_pixel = _valid(target).flatten(1).any(dim=1)  # (N,)
    probabilities = logits.sigmoid()[has_valid_pixel]
    target = target[has_valid_pixel]
    thresholds = torch.linspace(*THRESHOLDS, device=logits.device, dtype=logits.dtype)
    images = len(target)
    bins = len(thresholds) + 1
    image_index = torch.arange(images, device=target.device).view(-1, 1, 1, 1)
    # A pixel's bin is > t exactly where its probability is above threshold t, so one histogram serves all thresholds.
    bin_index = torch.bucketize(probabilities, thresholds)
    flat_index = ((image_index * bins + bin_index) * 2 + target.long())[(target == 0) | (target == 1)]
    histogram = torch.bincount(flat_index, minlength=images * bins * 2)
    histogram = histogram.view(images, bins, 2).double()  # (images, bins, [background, salient])
    above = histogram.flip(1).cumsum(1).flip(1)[:, 1:]  # (images, thresholds, [background, salient])
    predicted = above.sum(2)
    hits = above[:, :, 1]
    salient = histogram[:, :, 1].sum(1, keepdim=True)
    union = predicted + salient - hits
    # Where nothing is salient and nothing is predicted, the prediction is right.
    iou = torch.where(union > 0, hits / union.clamp(min=1), 1.0)
    precision = hits / predicted.clamp(min=1)
    recall = hits / salient.clamp(min=1)
    return (torch.stack([iou, precision, recall], dim=1),)


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
    soften=torch.sigmoid,
    activation="sigmoid",
)
EDGES = Kind(
    metric_name="loss",
    higher_is_better=False,
    loss=_edge_loss,
    prepare=_prepare_edges,
    metrics=_edge_metrics,
    errors=frozenset({"loss"}),
    dense=True,
    valid=_valid,
    soften=torch.sigmoid,
    activation="sigmoid",
)
SALIENCY = Kind(
    metric_name="mIoU",
    higher_is_better=True,
    loss=_saliency_loss,
    prepare=_prepare_saliency,
    metrics=_saliency_metrics,
    dense=True,
    valid=_valid,
    soften=torch.sigmoid,
    activation="sigmoid",
    weighs_by_mean=True,
)
