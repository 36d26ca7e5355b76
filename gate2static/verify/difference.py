"""The difference between two outputs."""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F


class Difference(BaseModel):
    """The difference between an expected and an actual output; infinite where shapes differ or a value is not finite.

    Attributes:
        max_abs: The largest absolute difference.
        max_rel: `max_abs` over the expected output's scale, its largest magnitude.
        cosine: The cosine similarity of the flattened outputs; 1 where both are all zero.
    """

    model_config = ConfigDict(frozen=True)

    max_abs: float
    max_rel: float
    cosine: float


def difference(expected: Tensor, actual: Tensor) -> Difference:
    """Compares two outputs in float64."""
    a = expected.detach().cpu().double().flatten()
    b = actual.detach().cpu().double().flatten()
    if expected.shape != actual.shape or not (a.isfinite().all() and b.isfinite().all()):
        return Difference(max_abs=float("inf"), max_rel=float("inf"), cosine=0.0)
    if not len(a):
        return Difference(max_abs=0.0, max_rel=0.0, cosine=1.0)
    max_abs = float((a - b).abs().max())
    scale = float(a.abs().max())
    equal_zero = scale == 0 and max_abs == 0
    return Difference(
        max_abs=max_abs,
        max_rel=max_abs / max(scale, torch.finfo(torch.float64).tiny),
        cosine=1.0 if equal_zero else float(F.cosine_similarity(a, b, dim=0)),
    )
