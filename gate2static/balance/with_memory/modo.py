"""Multi-objective gradients whose weights take one step at a time (MoDo; Chen et al. 2023)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.method import GramianMethod
from gate2static.balance.with_memory.simplex import Shares, projected
from gate2static.errors import BalanceError


class MoDo(GramianMethod):
    """A step of λ towards MGDA's weights per step of the network: λ ← Π(λ - γ (G λ + ρ λ)), Π onto the simplex.

    G has the products of one batch (reading 18 of docs/methods.md).

    Args:
        count: The number of tasks, T.
        gamma: γ, the learning rate of λ: 0.001 in LibMTL, 0.1 in TorchJD.
        rho: ρ, which draws λ to equal weights.
        seed: Not used.
    """

    def __init__(self, count: int, *, gamma: float = 1e-3, rho: float = 0.1, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.gamma = require_number(gamma, name="gamma of modo", error=BalanceError, least=0.0)
        self.rho = require_number(rho, name="rho of modo", error=BalanceError, least=0.0)
        self.shares = Shares(count)

    def gradient_weights(self, gramian: Tensor) -> Tensor:
        """Returns λ after its step, (T,); tasks without gradient have none and keep theirs."""
        present = gramian.diagonal() > 0
        weights = torch.zeros_like(gramian.diagonal())
        if present.any():
            shares = self.shares.of(present)
            slope = gramian[present][:, present] @ shares + self.rho * shares
            weights[present] = projected(shares - self.gamma * slope)
            self.shares.set(present, weights[present])
        return weights
