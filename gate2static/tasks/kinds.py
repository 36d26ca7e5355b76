"""The kinds of task, by the name a recipe gives: a loss, a metric, and what a better metric is.

torchmetrics is imported when the first metric is made: it takes seconds, and pruning a checkpoint needs none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Everything that tasks of one kind have in common.

    `loss` is a mean over the batch. `metric` makes an empty metric for a number of outputs; `predict` turns a head's
    output into what that metric counts, so that the metric never has to guess whether it sees logits.
    """

    metric_name: str
    higher_is_better: bool
    loss: Callable[[Tensor, Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    metric: "Callable[[int], Metric]"
    dense: bool
    """Whether the head draws a map rather than naming a class."""


def _accuracy(classes: int) -> "Metric":
    from torchmetrics.classification import MulticlassAccuracy

    return MulticlassAccuracy(num_classes=classes, average="micro")


def _iou(channels: int) -> "Metric":
    from torchmetrics.classification import BinaryJaccardIndex

    return BinaryJaccardIndex()


KINDS: dict[str, Kind] = {
    "classification": Kind(
        metric_name="accuracy",
        higher_is_better=True,
        loss=F.cross_entropy,
        predict=lambda logits: logits.argmax(dim=1),
        metric=_accuracy,
        dense=False,
    ),
    "mask": Kind(
        metric_name="IoU",
        higher_is_better=True,
        loss=F.binary_cross_entropy_with_logits,
        predict=lambda logits: (logits > 0).long(),
        metric=_iou,
        dense=True,
    ),
}
