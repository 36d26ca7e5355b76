"""Direction-oriented multi-objective gradient descent (SDMGrad; Xiao et al. 2023)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.aggregation.mgda import MGDA
from gate2static.errors import BalanceError


class SDMGrad(MGDA):
    """The shortest vector of the hull, drawn to the mean gradient g_0: (g_w + λ g_0) / (1 + λ), ‖g_w + λ g_0‖ least.

    As the weights w have a sum of 1, g_w + λ g_0 lies in the hull of all g_t + λ g_0, and is the vector that MGDA finds
    there. So the minimum is exact, where the official code takes twenty steps towards it (reading 18 of
    docs/methods.md).

    Args:
        count: The number of tasks, T.
        pull: λ; 0 is MGDA, and large values are the mean. The official experiments and LibMTL have 0.3.
        seed: Not used.
    """

    def __init__(self, count: int, *, pull: float = 0.3, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.pull = require_number(pull, name="pull of sdmgrad", error=BalanceError, least=0.0)

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns (w + λ/S) / (1 + λ)."""
        # Columns are the moved gradients, rows the gradients that they are made of.
        moved = torch.eye(len(gramian), dtype=gramian.dtype) + self.pull / len(gramian)
        return moved @ super().weights_of_present(moved.T @ gramian @ moved) / (1 + self.pull)
