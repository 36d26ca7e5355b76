"""Metrics that torchmetrics lacks. Imported where they are made, since torchmetrics takes seconds.

All states are sums over pixels or images, so adding up those of several processes is exact.
"""

from collections.abc import Callable

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


class BestThreshold(Metric):
    """A function of the images' mean IoU, precision and recall, at the threshold where it is highest."""

    sums: Tensor
    images: Tensor

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], thresholds: int) -> None:
        """`function` maps IoU, precision and recall, each of so many thresholds, to as many numbers."""
        super().__init__()
        self.function = function
        self.add_state("sums", torch.zeros(3, thresholds), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, scores: Tensor) -> None:
        """Counts images: IoU, precision and recall of each at every threshold, (N, 3, thresholds)."""
        self.sums += scores.sum(0)
        self.images += len(scores)

    def compute(self) -> Tensor:
        """The function's highest value."""
        return self.function(*(self.sums / self.images)).max()
