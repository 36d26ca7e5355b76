"""Distance from the camera in metres, with L1 loss, RMSE, and absolute and relative error.

Outputs and targets are (N, 1, H, W). Targets at or below 0 are invalid. Errors are averaged over all valid pixels of a
split.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gate2static.tasks.kind import Kind, mean_over

if TYPE_CHECKING:
    from torchmetrics import Metric


def _valid(true: Tensor) -> Tensor:
    return true > 0


def _loss(depth: Tensor, true: Tensor) -> Tensor:
    return mean_over(_valid(true), (depth - true).abs())


def _prepare(depth: Tensor, true: Tensor) -> tuple[Tensor, ...]:
    valid = _valid(true)
    return depth[valid], true[valid]


def _close(depth: Tensor, true: Tensor) -> Tensor:
    """Returns True where the two differ by a factor below 1.25 in either direction (δ₁ of the depth literature)."""
    return torch.maximum(depth, true) < 1.25 * torch.minimum(depth, true)


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.regression import MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredError

    from gate2static.tasks.measures import MeanOf

    return {
        "rmse": MeanSquaredError(squared=False),
        "abs_error": MeanAbsoluteError(),
        "rel_error": MeanAbsolutePercentageError(),
        "within_1.25": MeanOf(_close),
    }


KIND = Kind(
    metric_name="rmse",
    higher_is_better=False,
    loss=_loss,
    prepare=_prepare,
    metrics=_metrics,
    errors=frozenset({"rmse", "abs_error", "rel_error"}),
    dense=True,
    valid=_valid,
    unit="m",
)
