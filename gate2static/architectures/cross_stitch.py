"""Cross-stitch networks (Misra et al. 2016)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gate2static.architectures.architecture import SideBySide, require_places
from gate2static.architectures.stages import Stages
from gate2static.arguments import require_number
from gate2static.errors import ArchitectureError


class CrossStitch(SideBySide):
    """One stream per task; behind every stage each task reads a linear combination of all streams.

    x'_t = Σ_s a_ts x_s, with one a_ts per channel.

    Args:
        stages: The backbone in stages.
        heads: Task -> head.
        own: The first a_tt; the other tasks share 1 - a_tt equally. 0.9 is the original's choice for two tasks, and 0.8
            that of the PASCAL experiments with five.
    """

    def __init__(self, stages: Stages, heads: Mapping[str, nn.Module], *, own: float = 0.9) -> None:
        require_places(stages, "cross_stitch", "mixes streams")
        first = require_number(own, name="own of cross_stitch", error=ArchitectureError)
        super().__init__(stages, heads, mixer=lambda shape, dim: _Stitch(len(heads), shape, dim, first))


class _Stitch(nn.Module):
    """The linear combination of T values of one shape; `weight` is (T out, T in, C).

    Args:
        tasks: T.
        shape: The shape of a value, without the batch.
        dim: The dimension of the channels in that shape.
        own: The first weight of a task's own value.
    """

    def __init__(self, tasks: int, shape: tuple[int, ...], dim: int, own: float) -> None:
        super().__init__()
        # Lines the channels up with a value: (C, 1, 1) for (N, C, H, W), and (C,) for (N, H, W, C).
        self.view = (-1, *[1] * (len(shape) - 1 - dim))
        weight = torch.full((tasks, tasks), (1 - own) / max(1, tasks - 1)).fill_diagonal_(own)
        self.weight = nn.Parameter(weight[:, :, None].repeat(1, 1, shape[dim]))

    def forward(self, *values: Tensor) -> list[Tensor]:
        mixed = []
        for row in range(len(values)):
            terms = [self.weight[row, s].view(self.view) * value for s, value in enumerate(values)]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            mixed.append(total)
        return mixed
