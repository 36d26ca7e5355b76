"""Robust multi-task learning with excess risks (ExcessMTL; He et al. 2024)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.with_memory.remembering_rows import RememberingRows
from gate2static.balance.with_memory.simplex import Shares
from gate2static.errors import BalanceError

_SMALLEST = 1e-7
_SMALLEST_SHARE = 1e-6
"""A weight stays above 0, because the gradient of the loss itself is taken from the weighted one."""


class ExcessRisks(RememberingRows):
    """Weighs a loss by its excess risk: how far the task is from where it could get.

    The risk is gᵀ H⁻¹ g over its value in the first step, where H is the root of the sum of all squared gradients so
    far, as in Adagrad. The weights of all parameters, of sum T, are multiplied by exp(η risk) after each step, for the
    next one; the official code takes them at once, at the price of a second backward pass.

    Args:
        count: The number of tasks, T.
        lr: η: 0.01 in LibMTL, 1 in TorchJD.
        seed: Not used.
    """

    first: Tensor

    def __init__(self, count: int, *, lr: float = 1e-2, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.lr = require_number(lr, name="lr of excess_mtl", error=BalanceError, least=0.0)
        self.shares = Shares(count)
        self.register_buffer("first", torch.zeros(count, dtype=torch.float64))

    def weights(self, losses: Tensor) -> Tensor:
        """Returns the weights, which add up to T."""
        return self.count * self.shares.values.to(losses)

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns the sum of the weighted gradients, (T, n) -> (n,), and moves the weights for the next step."""
        self.begin_step(rows)
        plain = rows / (self.count * self.shares.values).to(rows)[:, None]
        self.memory = self.memory + plain.square()
        risks = (plain.square() / (self.memory + _SMALLEST).sqrt()).sum(dim=1).double().cpu()
        if self.steps == 1:
            self.first.copy_(risks)
            return rows.sum(0)
        present = (risks > 0) & (self.first > 0)
        if present.any():
            risen = self.shares.of(present).log() + self.lr * risks[present] / self.first[present]
            shares = risen.softmax(0).clamp(min=_SMALLEST_SHARE)
            self.shares.set(present, shares / shares.sum())
        return rows.sum(0)
