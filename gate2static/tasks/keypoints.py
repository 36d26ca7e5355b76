"""Heat maps of keypoints, as in Taskonomy, with the L1 loss.

Outputs and targets are (N, 1, H, W). Targets below 0 are invalid.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from gate2static.tasks.kind import Kind, mean_over

if TYPE_CHECKING:
    from torchmetrics import Metric


def _valid(true: Tensor) -> Tensor:
    return true >= 0


def _loss(heat: Tensor, true: Tensor) -> Tensor:
    return mean_over(_valid(true), (heat - true).abs())


def _prepare(heat: Tensor, true: Tensor) -> tuple[Tensor, ...]:
    valid = _valid(true)
    return heat[valid], true[valid]


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.regression import MeanAbsoluteError

    return {"L1": MeanAbsoluteError()}


KIND = Kind(
    metric_name="L1",
    higher_is_better=False,
    loss=_loss,
    prepare=_prepare,
    metrics=_metrics,
    dense=True,
    valid=_valid,
)
