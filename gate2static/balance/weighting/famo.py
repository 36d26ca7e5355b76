"""Fast adaptive multitask optimisation (FAMO; Liu et al. 2023)."""

import torch
from torch import Tensor
from torch.optim import Adam

from gate2static.arguments import require_number
from gate2static.balance.method import TrainedWeights
from gate2static.errors import BalanceError

_SMALLEST = 1e-8
"""Added to losses below their logarithm, as in the official code."""


class Famo(TrainedWeights):
    """Makes all losses fall at the same relative rate: Σ c z_t log L_t, z = softmax(ξ), c = 1 / Σ (z_t / L_t).

    After a step, ξ moves by how much each log L_t fell on the same batch, so `Balance.step` needs those losses again.

    Args:
        count: The number of tasks, T.
        lr: The learning rate of ξ.
        weight_decay: The weight decay γ of ξ: 1e-3 in LibMTL and TorchJD, 1e-5 in the official experiments.
        seed: Not used.
    """

    needs_losses = True
    needs_losses_again = True
    before: Tensor

    def __init__(self, count: int, *, lr: float = 0.025, weight_decay: float = 1e-3, seed: int = 0) -> None:
        require_number(lr, name="lr of famo", error=BalanceError, least=0.0)
        require_number(weight_decay, name="weight_decay of famo", error=BalanceError, least=0.0)
        super().__init__(count, start=0.0, optimiser=Adam, lr=lr, weight_decay=weight_decay, seed=seed)
        self.register_buffer("before", torch.zeros(count, dtype=torch.float64))

    def weights(self, losses: Tensor) -> Tensor:
        """Returns c z_t / L_t, the weights of the losses themselves; losses must be positive."""
        shares = self.numbers.detach().softmax(0)
        relative = shares / (losses + _SMALLEST)
        return relative / relative.sum()

    def update(self, losses: Tensor) -> None:
        """Remembers the losses before the step."""
        self.before.copy_(losses)

    def look_back(self, losses: Tensor) -> None:
        """Moves ξ by Jᵀ (log L before - log L after), J being the derivative of softmax(ξ).

        Raises:
            BalanceError: A loss is negative.
        """
        if bool((losses < 0).any()):
            raise BalanceError(f"famo takes logarithms, and the losses are {losses.tolist()}; they must be positive")
        fall = (self.before + _SMALLEST).log() - (losses.to(self.before) + _SMALLEST).log()
        shares = self.numbers.detach().softmax(0)
        self.descend(shares * (fall - (shares * fall).sum()))
