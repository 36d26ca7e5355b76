"""One class an image: cross-entropy and accuracy."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from gate2static.tasks.kind import Kind

if TYPE_CHECKING:
    from torchmetrics import Metric


def _predict(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    return logits.argmax(dim=1), classes


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.classification import MulticlassAccuracy

    return {"accuracy": MulticlassAccuracy(num_classes=channels, average="micro")}


KIND = Kind(
    metric_name="accuracy",
    higher_is_better=True,
    loss=F.cross_entropy,
    predict=_predict,
    metrics=_metrics,
    dense=False,
)
