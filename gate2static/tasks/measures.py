"""Metrics that torchmetrics lacks. Imported where they are made, since torchmetrics takes seconds.

All states are sums over pixels or images, so adding up those of several processes is exact.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassConfusionMatrix


class MeanOf(MeanMetric):
    """The mean of a function of what it is updated with."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        """`function` maps the tensors of an update to a tensor of values, or of bool for a share."""
        # torchmetrics would drop values that are not numbers and report the mean of the others.
        super().__init__(nan_strategy="disable")
        self.function = function

    def update(self, *values: Tensor) -> None:  # type: ignore[override]
        """Counts every value of `function(*values)` alike."""
        super().update(self.function(*values).to(self.dtype))


class PresentClassIoU(MulticlassConfusionMatrix):
    """mIoU over the classes that the evaluated split holds.

    A class that the labels lack has an IoU of 0 or none at all, however good a network is. torchmetrics'
    `MulticlassJaccardIndex` leaves it out only until a single pixel is taken for it.
    """

    def compute(self) -> Tensor:
        """The mean over those classes of true positives / (true positives + false positives + false negatives)."""
        confusion = self.confmat.double()
        hits, wanted = confusion.diag(), confusion.sum(dim=1)
        iou = hits / (wanted + confusion.sum(dim=0) - hits)
        return iou[wanted > 0].mean()


class MedianAngle(Metric):
    """The median of angles in degrees, to 0.005°.

    A histogram: the angles of all pixels of PASCAL-Context's test images would take 5 GB in every process.
    """

    counts: Tensor
    BINS_PER_DEGREE = 100

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(180 * self.BINS_PER_DEGREE + 1), dist_reduce_fx="sum")

    def update(self, angles: Tensor) -> None:
        """Counts angles between 0 and 180."""
        bins = (angles * self.BINS_PER_DEGREE).long()
        self.counts += torch.bincount(bins, minlength=len(self.counts))

    def compute(self) -> Tensor:
        """The middle of the bin that holds the median."""
        below = self.counts.cumsum(0)
        middle = torch.searchsorted(below, below[-1:] / 2)
        return (middle[0] + 0.5) / self.BINS_PER_DEGREE


class _Saliency(Metric):
    """IoU, precision and recall of every image at every threshold, averaged over the images.

    As Vandenhende et al. (2020) report saliency: at the best of 15 thresholds for the whole split.
    """

    sums: Tensor
    images: Tensor
    thresholds: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("thresholds", torch.linspace(0.2, 0.9, 15))
        self.add_state("sums", torch.zeros(3, 15), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Counts images: probabilities and targets (N, 1, H, W), targets 0 or 1, others are ignored."""
        count, bins = len(target), len(self.thresholds) + 1
        image = torch.arange(count, device=target.device).view(-1, 1, 1, 1)
        # bin > t exactly where the probability is above threshold t, so one histogram serves all thresholds.
        bin_ = torch.bucketize(probabilities, self.thresholds.to(probabilities.dtype))
        valid = (target == 0) | (target == 1)
        flat = ((image * bins + bin_) * 2 + target.long())[valid]
        histogram = torch.bincount(flat, minlength=count * bins * 2).view(count, bins, 2).double()
        above = histogram.flip(1).cumsum(1).flip(1)[:, 1:]
        found, hits = above.sum(2), above[:, :, 1]
        wanted = histogram[:, :, 1].sum(1, keepdim=True)
        either = found + wanted - hits
        # An image with nothing salient is got right by finding nothing.
        iou = torch.where(either > 0, hits / either.clamp(min=1), 1.0)
        scores = torch.stack([iou, hits / found.clamp(min=1), hits / wanted.clamp(min=1)])
        self.sums += scores.sum(1)
        self.images += count


class SaliencyIoU(_Saliency):
    """The mean IoU of an image, at the threshold where it is highest."""

    def compute(self) -> Tensor:
        """The highest of the mean IoUs."""
        return (self.sums[0] / self.images).max()


class SaliencyF(_Saliency):
    """The harmonic mean of mean precision and mean recall (F₁), at the threshold where it is highest."""

    def compute(self) -> Tensor:
        """The highest F₁."""
        precision, recall = self.sums[1:] / self.images
        scores: Tensor = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
        return scores.max()
