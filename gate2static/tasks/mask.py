"""A map of what belongs to the foreground: binary cross-entropy and IoU."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from gate2static.tasks.kind import Kind

if TYPE_CHECKING:
    from torchmetrics import Metric


def _predict(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return (logits > 0).long().flatten(), mask.long().flatten()


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.classification import BinaryJaccardIndex

    return {"IoU": BinaryJaccardIndex()}


KIND = Kind(
    metric_name="IoU",
    higher_is_better=True,
    loss=F.binary_cross_entropy_with_logits,
    predict=_predict,
    metrics=_metrics,
    dense=True,
)
