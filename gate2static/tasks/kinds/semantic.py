"""One class per pixel, with cross-entropy, mIoU and pixel accuracy.

Outputs are (N, classes, H, W), targets int64 (N, H, W).
"""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from gate2static.data.contract import IGNORE
from gate2static.tasks.kind import Kind

if TYPE_CHECKING:
    from torchmetrics import Metric


def _valid(classes: Tensor) -> Tensor:
    return classes != IGNORE


def _loss(logits: Tensor, classes: Tensor) -> Tensor:
    total = F.cross_entropy(logits, classes, ignore_index=IGNORE, reduction="sum")
    return total / (classes != IGNORE).sum().clamp(min=1)


def _prepare(logits: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
    valid = _valid(classes)
    return logits.argmax(dim=1)[valid], classes[valid]


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.classification import MulticlassAccuracy

    from gate2static.tasks.measures import PresentClassIoU

    return {
        "mIoU": PresentClassIoU(num_classes=channels, validate_args=False),
        "pixel_accuracy": MulticlassAccuracy(num_classes=channels, average="micro", validate_args=False),
    }


KIND = Kind(
    metric_name="mIoU",
    higher_is_better=True,
    loss=_loss,
    prepare=_prepare,
    metrics=_metrics,
    dense=True,
    valid=_valid,
    labelled=True,
    activation="softmax",
)
