"""Surface normals, with L1 or cosine loss, and the angle between normals in degrees.

Outputs are (N, 3, H, W) vectors of any length. Targets are (N, 3, H, W): unit vectors, or zero where they are invalid.
The loss compares directions, as in Vandenhende et al. (2020), which appendix A of the paper follows.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from gate2static.tasks.kind import Kind, mean_over

if TYPE_CHECKING:
    from torchmetrics import Metric

THRESHOLDS_DEG = (11.25, 22.5, 30.0)

_SHORTEST = 1e-3
"""Outputs below this length are not scaled to 1, because an output of exactly 0 would get a gradient of 1e12."""


def _valid(true: Tensor) -> Tensor:
    return (true != 0).any(dim=1, keepdim=True)


def _l1_loss(normals: Tensor, true: Tensor) -> Tensor:
    return mean_over(_valid(true), (F.normalize(normals, dim=1, eps=_SHORTEST) - true).abs())


def _cosine_loss(normals: Tensor, true: Tensor) -> Tensor:
    cosine = (F.normalize(normals, dim=1, eps=_SHORTEST) * true).sum(dim=1, keepdim=True)
    return mean_over(_valid(true), 1 - cosine)


def _unit_length(normals: Tensor) -> Tensor:
    return F.normalize(normals, dim=1, eps=_SHORTEST)


def _prepare(normals: Tensor, true: Tensor) -> tuple[Tensor, ...]:
    """Returns the angles of valid pixels in degrees."""
    output = F.normalize(normals, dim=1)
    target = F.normalize(true, dim=1)
    # The tangent of half the angle is exact for small angles too, where the inverse cosine is not.
    half_angle = torch.atan2((output - target).norm(dim=1), (output + target).norm(dim=1))
    return ((2 * half_angle).rad2deg()[_valid(true)[:, 0]],)


def _metrics(channels: int) -> "dict[str, Metric]":
    from gate2static.tasks.measures import MeanOf, MedianAngle

    return {
        "mErr": MeanOf(lambda angles: angles),
        "median": MedianAngle(),
        **{f"within_{limit:g}": MeanOf(lambda angles, limit=limit: angles < limit) for limit in THRESHOLDS_DEG},
    }


KIND = Kind(
    metric_name="mErr",
    higher_is_better=False,
    loss=_l1_loss,
    prepare=_prepare,
    metrics=_metrics,
    errors=frozenset({"mErr", "median"}),
    dense=True,
    valid=_valid,
    soften=_unit_length,
    activation="unit length",
)
COSINE_KIND = replace(KIND, loss=_cosine_loss, variant_of="normals")
