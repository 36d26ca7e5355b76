"""Maps that are judged by their L1 distance: heat maps of keypoints, and offsets from the centres of instances.

Outputs and targets are (N, 1, H, W) for keypoints, as in Taskonomy, whose targets below 0 are invalid. For offsets they
are (N, 2, H, W), x before y, as shares of the image's width and height; pixels of no instance are `IGNORE` in both. The
offsets stand for instance segmentation on CityScapes in Kendall et al. (2018) and in Mao et al.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from gate2static.data.contract import IGNORE
from gate2static.tasks.kind import Kind, mean_over

if TYPE_CHECKING:
    from torchmetrics import Metric


def _known_heat(true: Tensor) -> Tensor:
    return true >= 0


def _of_an_instance(true: Tensor) -> Tensor:
    return true[:, :1] != IGNORE


def _heat_loss(heat: Tensor, true: Tensor) -> Tensor:
    return mean_over(_known_heat(true), (heat - true).abs())


def _offset_loss(offsets: Tensor, true: Tensor) -> Tensor:
    return mean_over(_of_an_instance(true), (offsets - true).abs())


def _prepare_heat(heat: Tensor, true: Tensor) -> tuple[Tensor, ...]:
    valid = _known_heat(true)
    return heat[valid], true[valid]


def _prepare_offsets(offsets: Tensor, true: Tensor) -> tuple[Tensor, ...]:
    valid = _of_an_instance(true).expand_as(true)
    return offsets[valid], true[valid]


def _metrics(channels: int) -> "dict[str, Metric]":
    from torchmetrics.regression import MeanAbsoluteError

    return {"L1": MeanAbsoluteError()}


KEYPOINTS = Kind(
    metric_name="L1",
    higher_is_better=False,
    loss=_heat_loss,
    prepare=_prepare_heat,
    metrics=_metrics,
    errors=frozenset({"L1"}),
    dense=True,
    valid=_known_heat,
)
INSTANCE_OFFSETS = replace(
    KEYPOINTS,
    loss=_offset_loss,
    prepare=_prepare_offsets,
    valid=_of_an_instance,
    unit="share of the image's width (x) or height (y)",
)
