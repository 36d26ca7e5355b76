"""Heat maps of keypoints, as of Taskonomy: L1. Outputs and targets (N, 1, H, W)."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from gate2static.tasks.kind import Kind

if TYPE_CHECKING:
    from torchmetrics import Metric


def _prepare(heat: Tensor, true: Tensor) -> tuple[Tensor, ...]:
    return heat.flatten(), true.flatten()


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.regression import MeanAbsoluteError

    return {"L1": MeanAbsoluteError()}


KIND = Kind(
    metric_name="L1",
    higher_is_better=False,
    loss=F.l1_loss,
    prepare=_prepare,
    metrics=_metrics,
    dense=True,
)
