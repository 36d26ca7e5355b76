"""Gradient sign dropout (GradDrop; Chen et al. 2020)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance import processes
from gate2static.balance.method import RowsMethod
from gate2static.errors import BalanceError

_CANCELLED = 1e-5
"""The share of the absolute values below which a sum over a batch counts as 0."""


class GradDrop(RowsMethod):
    """Draws a sign for every element, and keeps the gradients of that sign.

    The positive sign's probability is P = ½ (1 + Σ g / Σ |g|). At features, as in its paper, sign and choice are one
    per element of a sample: the gradients are multiplied by the sign of the feature and added up over the batch before.

    Args:
        count: The number of tasks, T.
        leak: The share of the other sign's gradients that is kept.
        seed: Seeds the signs.
    """

    divides_batches = True

    def __init__(self, count: int, *, leak: float = 0.0, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.leak = require_number(leak, name="leak of graddrop", error=BalanceError, least=0.0, most=1.0)

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns the sum of the kept elements, (T, n) -> (n,)."""
        is_positive = self._draw(rows)
        return (rows * self._kept(rows, is_positive)).sum(0)

    def aggregate_features(self, rows: Tensor, features: Tensor) -> Tensor:
        """Returns the sum of the kept elements, (T, N, elements per sample) -> (N, elements per sample)."""
        # Which way activity moves, and not the feature itself, is what tasks can agree about.
        signed = rows * features.sign().where(features != 0, 1)
        of_batch = processes.mean(signed.sum(1))  # (T, elements per sample)
        size = processes.mean(signed.abs().sum(1))
        # What cancels out over the batch has no sign; what is left is rounding.
        of_batch = of_batch.where(of_batch.abs() > _CANCELLED * size, 0)
        kept = self._kept(of_batch, self._draw(of_batch))
        return (rows * kept[:, None]).sum(0)

    def _draw(self, rows: Tensor) -> Tensor:
        """Returns which elements take the positive sign, (T, n) -> (n,)."""
        total = rows.abs().sum(0)
        purity = 0.5 * (1 + rows.sum(0) / total.where(total > 0, 1))
        # Numbers are drawn where the rows are, and the same on every device's every process.
        seed = int(torch.randint(2**62, (), generator=self._generator))
        generator = torch.Generator(rows.device).manual_seed(seed)
        return purity > torch.rand(purity.shape, generator=generator, dtype=rows.dtype, device=rows.device)

    def _kept(self, values: Tensor, is_positive: Tensor) -> Tensor:
        """Returns the share of every element that is kept."""
        has_the_sign = ((values > 0) == is_positive) | (values == 0)
        return self.leak + (1 - self.leak) * has_the_sign.to(values)
