"""The kinds of task, by the name a recipe gives: a loss, a metric, and what a better metric is."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryJaccardIndex, MulticlassAccuracy


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
    metric: Callable[[int], Metric]
    dense: bool
    """Whether the head draws a map rather than naming a class."""


KINDS: dict[str, Kind] = {
    "classification": Kind(
        metric_name="accuracy",
        higher_is_better=True,
        loss=F.cross_entropy,
        predict=lambda logits: logits.argmax(dim=1),
        metric=lambda channels: MulticlassAccuracy(num_classes=channels, average="micro"),
        dense=False,
    ),
    "mask": Kind(
        metric_name="IoU",
        higher_is_better=True,
        loss=F.binary_cross_entropy_with_logits,
        predict=lambda logits: (logits > 0).long(),
        metric=lambda channels: BinaryJaccardIndex(),
        dense=True,
    ),
}
