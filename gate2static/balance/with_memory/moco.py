"""Multi-objective gradient correction (MoCo; Fernando et al. 2023)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.with_memory.remembering_rows import RememberingRows
from gate2static.balance.with_memory.simplex import Shares
from gate2static.errors import BalanceError


class MoCo(RememberingRows):
    """Follows averages y of the gradients instead of a batch's own, with weights λ that take one step at a time.

    In step k, with β_k = β / √k and γ_k = γ / √k: y ← y - β_k (y - L g / ‖g‖), λ ← softmax(λ - γ_k (y yᵀ + ρ I) λ),
    and the direction is λᵀ y. The paper projects λ onto the simplex; the authors' code, which LibMTL has, takes the
    softmax and normalises gradients, as here.

    Args:
        count: The number of tasks, T.
        beta: β.
        gamma: γ.
        rho: ρ, which draws λ to equal weights.
        seed: Not used.
    """

    needs_losses = True

    def __init__(
        self, count: int, *, beta: float = 0.5, gamma: float = 0.1, rho: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(count, seed=seed)
        self.beta = require_number(beta, name="beta of moco", error=BalanceError, least=0.0, most=1.0)
        self.gamma = require_number(gamma, name="gamma of moco", error=BalanceError, least=0.0)
        self.rho = require_number(rho, name="rho of moco", error=BalanceError, least=0.0)
        self.shares = Shares(count)
        self._losses = torch.ones(count, dtype=torch.float64)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns ones, and keeps the losses for their gradients' lengths."""
        self._losses = losses
        return super().weights(losses)

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns λᵀ y, (T, n) -> (n,); tasks without gradient have no part in λ."""
        self.begin_step(rows)
        slowdown = float(self.steps) ** 0.5
        norms = rows.norm(dim=1, keepdim=True)
        scaled = torch.where(norms > 0, rows / norms.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)
        scaled = scaled * self._losses.to(rows)[:, None]
        self.memory = self.memory - self.beta / slowdown * (self.memory - scaled)
        products = (self.memory @ self.memory.T).double().cpu()
        present = products.diagonal() > 0
        if not present.any():
            return torch.zeros_like(rows[0])
        shares = self.shares.of(present)
        slope = products[present][:, present] @ shares + self.rho * shares
        shares = (shares - self.gamma / slowdown * slope).softmax(0)
        self.shares.set(present, shares)
        direction: Tensor = shares.to(rows) @ self.memory[present.to(rows.device)]
        return direction
