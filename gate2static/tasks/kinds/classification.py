"""One class per image, with cross-entropy and accuracy. Outputs are (N, classes), targets int64 (N,)."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from gate2static.tasks.kind import Kind

if TYPE_CHECKING:
    from torchmetrics import Metric


def _prepare(logits: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
    return logits.argmax(dim=1), classes


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.classification import MulticlassAccuracy

    return {"accuracy": MulticlassAccuracy(num_classes=channels, average="micro", validate_args=False)}


KIND = Kind(
    metric_name="accuracy",
    higher_is_better=True,
    loss=F.cross_entropy,
    prepare=_prepare,
    metrics=_metrics,
    dense=False,
    labelled=True,
    activation="softmax",
)
