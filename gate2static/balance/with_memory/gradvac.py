"""Gradient vaccine (GradVac; Wang et al. 2021)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.method import GramianMethod
from gate2static.errors import BalanceError

_SMALLEST = 1e-8


class GradVac(GramianMethod):
    """Turns a gradient towards another until their cosine is what it was on average, and adds all up.

    For every task i and every other j in random order, with φ = cos(g'_i, g_j): where φ < φ̂_ij, g'_i gets
    ‖g'_i‖ (φ̂ √(1-φ²) - φ √(1-φ̂²)) / (‖g_j‖ √(1-φ̂²)) g_j; then φ̂_ij moves to φ by the share β.

    Args:
        count: The number of tasks, T.
        beta: β of the moving average: 0.5 in LibMTL and TorchJD.
        seed: Seeds the order.
    """

    average: Tensor

    def __init__(self, count: int, *, beta: float = 0.5, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.beta = require_number(beta, name="beta of gradvac", error=BalanceError, least=0.0, most=1.0)
        self.register_buffer("average", torch.zeros(count, count, dtype=torch.float64))

    def gradient_weights(self, gramian: Tensor) -> Tensor:
        """Returns how often every gradient is in the sum of the turned ones; averages move by the way."""
        norms = gramian.diagonal().sqrt()
        turned = torch.eye(self.count, dtype=gramian.dtype)  # (turned gradients, the gradients they are made of)
        for i in range(self.count):
            others = [j for j in range(self.count) if j != i]
            for index in torch.randperm(len(others), generator=self._generator).tolist():
                j = others[index]
                if norms[i] == 0 or norms[j] == 0:
                    continue  # no angle, nothing to learn
                length = (turned[i] @ gramian @ turned[i]).clamp(min=0).sqrt()
                cosine = (turned[i] @ gramian[:, j]) / (length * norms[j] + _SMALLEST)
                wanted = self.average[i, j].clone()
                if cosine < wanted:
                    sine = (1 - cosine**2).clamp(min=0).sqrt()
                    wanted_sine = (1 - wanted**2).clamp(min=0).sqrt()
                    turn = length * (wanted * sine - cosine * wanted_sine)
                    turned[i, j] += turn / (norms[j] * wanted_sine + _SMALLEST)
                self.average[i, j] += self.beta * (cosine - wanted)
        return turned.sum(0)
