"""AFA: adaptive feature aggregation (Cui et al. 2021), for any number of tasks and any image size.

Behind a place each task weighs the channels of all streams, and then their pixels:

    x'_t = Σ_s a_ts ∘ x_s    with  a_t = softmax_s(A_t ReLU(F [pooled x_1; …; x_T]))     per channel
    x''_t = Σ_s b_ts ∘ x'_s  with  b_t = softmax_s(7×7_t [mean x'_1; …; mean x'_T])      per pixel

The official code is for two tasks. Its last version gives both one pair of weights, for "self" and "other", and has
dense layers over all pixels, which fix the image size. An earlier version has weights of each task, and convolutions
alone: that one goes over to T tasks as it stands, and is taken here, with the reduction F of the last version.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.architectures.architecture import SideBySide, require_maps, require_places
from gate2static.architectures.stages import Stages

_REDUCTION = 16
"""F has this many times fewer outputs than inputs, but no fewer than `_NARROWEST`."""
_NARROWEST = 32
_KERNEL = 7


class AFA(SideBySide):
    """One stream per task; behind every stage each task aggregates all streams with weights that depend on the image.

    Args:
        stages: The backbone in stages, with feature maps between them.
        heads: Task -> head.
    """

    def __init__(self, stages: Stages, heads: Mapping[str, nn.Module]) -> None:
        require_places(stages, "afa", "mixes streams")
        require_maps(stages, "afa")
        super().__init__(stages, heads, mixer=lambda shape, _: _Aggregation(len(heads), shape[0]))


class _Aggregation(nn.Module):
    """The aggregation of T maps (N, C, H, W) by channel, and then by pixel.

    The source's ReLU behind each of the two changes nothing here, as the maps of its backbones are not negative behind
    a stage, and the weights are not either.

    Args:
        tasks: T.
        width: C.
    """

    def __init__(self, tasks: int, width: int) -> None:
        super().__init__()
        self.tasks = tasks
        reduced = max(tasks * width // _REDUCTION, _NARROWEST)
        self.reduction = nn.Linear(tasks * width, reduced, bias=False)
        self.of_channels = nn.ModuleList(nn.Linear(reduced, tasks * width, bias=False) for _ in range(tasks))
        self.of_pixels = nn.ModuleList(
            nn.Conv2d(tasks, tasks, _KERNEL, padding=_KERNEL // 2) for _ in range(tasks)
        )

    def forward(self, *values: Tensor) -> list[Tensor]:
        pooled = torch.cat([value.mean((2, 3)) for value in values], dim=1)
        reduced = F.relu(self.reduction(pooled))
        by_channel = []
        for layer in self.of_channels:
            weights = layer(reduced).unflatten(1, (self.tasks, -1)).softmax(1)  # (N, T, C)
            by_channel.append(_weighed(values, [weights[:, s, :, None, None] for s in range(self.tasks)]))
        means = torch.cat([value.mean(1, keepdim=True) for value in by_channel], dim=1)
        by_pixel = []
        for layer in self.of_pixels:
            weights = layer(means).softmax(1)  # (N, T, H, W)
            by_pixel.append(_weighed(by_channel, [weights[:, s : s + 1] for s in range(self.tasks)]))
        return by_pixel


def _weighed(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Returns the sum of values times weights."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total
