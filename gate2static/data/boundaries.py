"""Boundaries between the classes of a label map."""

import torch
from torch import Tensor


def class_boundaries(labels: Tensor) -> Tensor:
    """Returns 1 where a label differs from the label to its right or below, in lines of one pixel, and 0 elsewhere.

    Args:
        labels: A label map (H, W).

    Returns:
        The boundaries, float32 (1, H, W).
    """
    boundaries = torch.zeros(labels.shape)
    boundaries[:, :-1] = (labels[:, :-1] != labels[:, 1:]).float()
    boundaries[:-1] = torch.maximum(boundaries[:-1], (labels[:-1] != labels[1:]).float())
    return boundaries[None]
