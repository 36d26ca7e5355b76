"""Conflict-averse gradient descent (CAGrad; Liu et al. 2021)."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.method import GramianMethod
from gate2static.errors import BalanceError


class CAGrad(GramianMethod):
    """The direction within c ‖g_0‖ of the mean gradient g_0 along which the worst loss falls most.

    It is g_0 + √φ / ‖g_w‖ g_w with φ = c² ‖g_0‖², where w minimises ⟨g_w, g_0⟩ + √φ ‖g_w‖ over the simplex. No factor
    is applied to the result; the official code divides it by 1 + c² and multiplies it by T (`scale: sum` compares).

    Args:
        count: The number of tasks, T.
        c: The radius; 0 is the mean, and the paper's guarantee is for values below 1. The official NYU-v2 script has
            0.4, its default is 0.5.
        seed: Not used.
    """

    def __init__(self, count: int, *, c: float = 0.5, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.c = require_number(c, name="c of cagrad", error=BalanceError, least=0.0)

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns 1/S + √φ / ‖g_w‖ w."""
        count = len(gramian)
        mean = np.full(count, 1 / count)
        # Without units, because the solver's tolerance is absolute.
        products = gramian.numpy() / (np.trace(gramian.numpy()) / count)
        radius = self.c * np.sqrt(max(0.0, mean @ products @ mean))
        chosen = _worst_weights(products, mean, radius)
        length = np.sqrt(max(0.0, chosen @ products @ chosen))
        weights = mean + (radius / length * chosen if length > 0 else 0.0)
        return torch.from_numpy(weights).to(gramian)


def _worst_weights(products: NDArray[np.float64], mean: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Returns w of the simplex with the smallest ⟨g_w, g_0⟩ + radius ‖g_w‖."""
    tiny = 1e-16  # keeps the derivative finite at ‖g_w‖ = 0

    def value(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        length = np.sqrt(np.maximum(w @ products @ w, 0.0) + tiny)
        return float(w @ products @ mean + radius * length), products @ mean + radius * (products @ w) / length

    result = minimize(
        value,
        mean,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(mean),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
        options={"ftol": 1e-15, "maxiter": 200},
    )
    weights = np.asarray(result.x).clip(min=0.0)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised
