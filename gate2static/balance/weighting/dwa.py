"""Dynamic weight average (DWA; Liu et al. 2019)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.method import Method
from gate2static.errors import BalanceError


class DynamicWeightAverage(Method):
    """Weighs a loss by how slowly it fell: w = T softmax(r / τ), r_t = the ratio of the last two epochs' mean losses.

    The weights are 1 in the first two epochs.

    Args:
        count: The number of tasks, T.
        temperature: τ; larger values make the weights more equal.
        seed: Not used.
    """

    previous: Tensor
    last: Tensor
    total: Tensor
    steps: Tensor

    def __init__(self, count: int, *, temperature: float = 2.0, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        least = 1e-6
        self.temperature = require_number(temperature, name="temperature of dwa", error=BalanceError, least=least)
        for name in ("previous", "last", "total"):
            self.register_buffer(name, torch.zeros(count, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self, losses: Tensor) -> Tensor:
        """Returns the weights of this epoch, which add up to T."""
        if not bool((self.previous > 0).all()):
            return torch.ones_like(losses)
        return (self.last / self.previous / self.temperature).softmax(0).to(losses) * self.count

    def update(self, losses: Tensor) -> None:
        """Adds a step's losses to those of the epoch."""
        self.total += losses.to(self.total)
        self.steps += 1

    def end_epoch(self) -> None:
        """Takes the mean losses of the epoch that just ended."""
        if self.steps == 0:
            return
        self.previous.copy_(self.last)
        self.last.copy_(self.total / self.steps)
        self.total.zero_()
        self.steps.zero_()
