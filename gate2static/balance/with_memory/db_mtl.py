"""Dual-balancing multi-task learning (DB-MTL; Lin et al. 2023)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.with_memory.remembering_rows import RememberingRows
from gate2static.errors import BalanceError

_SMALLEST = 1e-8


class DualBalancing(RememberingRows):
    """Balances losses by their logarithm, and gradients by their length.

    Every task trains on log L. Its gradient is averaged over the steps, u ← g + β (u - g). The averages are brought to
    the length of the longest and added up.

    Args:
        count: The number of tasks, T.
        beta: β, the share of earlier gradients; LibMTL's default.
        seed: Not used.
    """

    needs_losses = True

    def __init__(self, count: int, *, beta: float = 0.9, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.beta = require_number(beta, name="beta of db_mtl", error=BalanceError, least=0.0, most=1.0)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns the derivatives of the logarithms, 1 / L.

        Raises:
            BalanceError: A loss is negative.
        """
        if bool((losses < 0).any()):
            raise BalanceError(f"db_mtl takes logarithms, and the losses are {losses.tolist()}; they must be positive")
        return 1 / (losses + _SMALLEST)

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns the sum of the averaged gradients of one length, (T, n) -> (n,)."""
        self.begin_step(rows)
        self.memory = rows + self.beta * (self.memory - rows)
        lengths = self.memory.norm(dim=1)
        factors = torch.where(lengths > 0, lengths.max() / lengths.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)
        return factors @ self.memory
