"""Metrics that torchmetrics lacks.

All states are sums over pixels or images, so adding up the states of several processes is exact. Import this module
inside functions only, because importing torchmetrics takes seconds.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassConfusionMatrix


class MeanOf(MeanMetric):
    """The mean of a function of the tensors that the metric is updated with.

    Args:
        function: Maps the tensors of an update to a tensor of values, or of bool for a share.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        # torchmetrics would drop values that are not numbers and report the mean of the others.
        super().__init__(nan_strategy="disable")
        self.function = function

    def update(self, *values: Tensor) -> None:  # type: ignore[override]
        """Adds every value of `function(*values)` with the same weight."""
        super().update(self.function(*values).to(self.dtype))


class PresentClassIoU(MulticlassConfusionMatrix):
    """The mIoU over the classes that occur in the labels of the evaluated split.

    A class that the labels lack has an IoU of 0 or no IoU, however good a network is. torchmetrics'
    `MulticlassJaccardIndex` leaves such a class out only until the network predicts it for a single pixel.
    """

    def compute(self) -> Tensor:
        """Returns the mean of true positives / (true positives + false positives + false negatives)."""
        confusion = self.confmat.double()  # (labels, predictions)
        hits = confusion.diag()
        labelled = confusion.sum(dim=1)
        predicted = confusion.sum(dim=0)
        iou = hits / (labelled + predicted - hits)
        return iou[labelled > 0].mean()


class MedianAngle(Metric):
    """The median of angles in degrees, accurate to 0.005°.

    The state is a histogram, because the angles of all pixels of PASCAL-Context's test images would take 5 GB in every
    process. Inside the bin of the median angles count as evenly spread, so that the median moves with every image.
    """

    counts: Tensor
    BINS_PER_DEGREE = 100

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(180 * self.BINS_PER_DEGREE + 1), dist_reduce_fx="sum")

    def update(self, angles: Tensor) -> None:
        """Adds angles in [0, 180]."""
        bins = (angles * self.BINS_PER_DEGREE).long()
        self.counts += torch.bincount(bins, minlength=len(self.counts))

    def compute(self) -> Tensor:
        """Returns the angle that half of the angles lie below."""
        upto = self.counts.cumsum(0)
        half = upto[-1] / 2
        middle = torch.searchsorted(upto, half[None])[0]
        inside = self.counts[middle]
        return (middle + 1 - (upto[middle] - half) / inside) / self.BINS_PER_DEGREE


class BestThreshold(Metric):
    """A function of the images' mean IoU, precision and recall, at the threshold where the function is highest.

    Args:
        function: Maps IoU, precision and recall, each (thresholds,), to one number per threshold.
        thresholds: The number of thresholds.
    """

    sums: Tensor
    images: Tensor

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor], thresholds: int) -> None:
        super().__init__()
        self.function = function
        self.add_state("sums", torch.zeros(3, thresholds), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, scores: Tensor) -> None:
        """Adds images: the IoU, precision and recall of each at every threshold, (N, 3, thresholds)."""
        self.sums += scores.sum(0)
        self.images += len(scores)

    def compute(self) -> Tensor:
        """Returns the function's highest value."""
        return self.function(*(self.sums / self.images)).max()
