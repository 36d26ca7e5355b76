"""Several binary attributes per image, with binary cross-entropy and accuracy, as for CelebA (section 4.1).

Outputs and targets are (N, attributes); targets are 0 or 1. Every attribute of every image has the same weight.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from gate2static.tasks.kind import Kind

if TYPE_CHECKING:
    from torchmetrics import Metric


def _prepare(logits: Tensor, attributes: Tensor) -> tuple[Tensor, ...]:
    return (logits > 0).long().flatten(), attributes.long().flatten()


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.classification import BinaryAccuracy

    return {"accuracy": BinaryAccuracy(validate_args=False)}


KIND = Kind(
    metric_name="accuracy",
    higher_is_better=True,
    loss=F.binary_cross_entropy_with_logits,
    prepare=_prepare,
    metrics=_metrics,
    dense=False,
    soften=torch.sigmoid,
    activation="sigmoid",
)
