"""Correlation-reduced stochastic multi-objective gradient manipulation (CR-MOGM; Zhou et al. 2022)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.aggregation.mgda import MGDA
from gate2static.balance.with_memory.simplex import Shares
from gate2static.errors import BalanceError


class SmoothedMGDA(MGDA):
    """A moving average of MGDA's weights, which follow from the noise of a batch otherwise; the first ones are MGDA's.

    Args:
        count: The number of tasks, T.
        keep: The share of the last step's weights in the new ones.
        normalise: As for `mgda`.
        seed: Not used.
    """

    steps: Tensor

    def __init__(self, count: int, *, keep: float = 0.9, normalise: str = "none", seed: int = 0) -> None:
        super().__init__(count, normalise=normalise, seed=seed)
        self.keep = require_number(keep, name="keep of cr_mogm", error=BalanceError, least=0.0, most=1.0)
        self.shares = Shares(count)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def gradient_weights(self, gramian: Tensor) -> Tensor:
        """Returns the averaged weights, (T,); tasks without gradient have none and keep theirs."""
        present = gramian.diagonal() > 0
        weights = super().gradient_weights(gramian)
        if not present.any():
            return weights
        if self.steps > 0:
            weights[present] = self.keep * self.shares.of(present) + (1 - self.keep) * weights[present]
        self.shares.set(present, weights[present])
        self.steps += 1
        return weights
