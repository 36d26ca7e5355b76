"""The ranges of example inputs, from which inputs are drawn when networks are compared."""

from typing import Any

import torch
from torch import Tensor

ValueRange = tuple[int, int] | tuple[float, float]
"""The least and the largest value; integers for integers and booleans."""


def value_range(example: Any) -> ValueRange | None:
    """Returns the range of an example input; None where it has no values that are finite and in order."""
    if not isinstance(example, Tensor):
        return None
    values = example.detach()
    if not values.numel() or values.is_complex() or values.is_meta:
        return None
    if values.is_floating_point():
        low, high = (float(end) for end in values.float().aminmax())
        return (low, high) if torch.isfinite(torch.tensor([low, high])).all() else None
    # Torch compares few of the unsigned types.
    integers = values.long()
    return int(integers.min()), int(integers.max())
