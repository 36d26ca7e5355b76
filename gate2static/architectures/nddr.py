"""NDDR-CNN: neural discriminative dimensionality reduction (Gao et al. 2019)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gate2static.architectures.architecture import OptimiserKind, SideBySide, require_maps, require_places
from gate2static.architectures.stages import Stages
from gate2static.arguments import require_number
from gate2static.errors import ArchitectureError

_MOMENTUM = 0.05
"""The momentum of the batch norms, as in Vandenhende's code."""
_RATE_WITH_SGD = 100.0


class NDDR(SideBySide):
    """One stream per task; behind every stage each task reads a 1×1 convolution over the channels of all streams.

    A batch norm and a ReLU follow the convolution.

    Args:
        stages: The backbone in stages, with feature maps between them.
        heads: Task -> head.
        own: The first weight of a task's own channel, as in the official code.
        other: The first weight of the same channel of each other task.
        rate: How many times the common learning rate the reductions train with. None is the original's 100 with SGD,
            for which it is made, and 1 with Adam, whose steps do not depend on the length of gradients.
    """

    def __init__(
        self,
        stages: Stages,
        heads: Mapping[str, nn.Module],
        *,
        own: float = 0.9,
        other: float = 0.1,
        rate: float | None = None,
    ) -> None:
        require_places(stages, "nddr", "mixes streams")
        require_maps(stages, "nddr")
        first = require_number(own, name="own of nddr", error=ArchitectureError)
        rest = require_number(other, name="other of nddr", error=ArchitectureError)
        super().__init__(stages, heads, mixer=lambda shape, _: _Reduction(len(heads), shape[0], first, rest))
        name = "rate of nddr"
        self.rate = None if rate is None else require_number(rate, name=name, error=ArchitectureError, least=1e-6)

    def parameter_groups(self, optimiser: OptimiserKind) -> list[dict[str, Any]]:
        """Returns the parameters of the reductions with their rate."""
        usual = _RATE_WITH_SGD if optimiser == "sgd" else 1.0
        rate = usual if self.rate is None else self.rate
        return [{"params": list(self.mixers.parameters()), "rate_factor": rate}]


class _Reduction(nn.Module):
    """T reductions of the channels of all tasks, (T · C), to those of one, (C)."""

    def __init__(self, tasks: int, width: int, own: float, other: float) -> None:
        super().__init__()
        self.reductions = nn.ModuleList()
        for task in range(tasks):
            convolution = nn.Conv2d(tasks * width, width, 1, bias=False)
            blocks = [torch.eye(width) * (own if s == task else other) for s in range(tasks)]
            with torch.no_grad():
                convolution.weight.copy_(torch.cat(blocks, dim=1)[:, :, None, None])
            norm = nn.BatchNorm2d(width, momentum=_MOMENTUM)
            self.reductions.append(nn.Sequential(convolution, norm, nn.ReLU()))

    def forward(self, *values: Tensor) -> list[Tensor]:
        joined = torch.cat(values, dim=1)
        return [reduction(joined) for reduction in self.reductions]
