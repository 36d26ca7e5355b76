"""Nash-MTL (Navon et al. 2022)."""

import torch
from torch import Tensor

from gate2static.arguments import require_count, require_number
from gate2static.balance.method import GramianMethod
from gate2static.errors import BalanceError

_LEAST = 1e-6
"""The least eigenvalue of the cosines: gradients that cancel out would have no finite bargain, and float32's rounding
makes an eigenvalue of 0 negative."""
_MOST_STEPS = 100
_EXACT = 1e-12


class NashMTL(GramianMethod):
    """The tasks' bargain: α > 0 with G α = 1/α, which is what minimises ½ αᵀ G α - Σ log α.

    That problem is smooth and convex in T numbers, so Newton's method solves it exactly. The direction always has the
    norm √T before it is clipped.

    Args:
        count: The number of tasks, T.
        max_norm: The largest norm of the direction; 0 does not clip.
        every: Steps between two bargains; the weights stay as they are in between.
        seed: Not used.
    """

    bargain: Tensor
    steps: Tensor

    def __init__(self, count: int, *, max_norm: float = 1.0, every: int = 1, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.max_norm = require_number(max_norm, name="max_norm of nash", error=BalanceError, least=0.0)
        self.every = require_count(every, name="every of nash", error=BalanceError)
        self.register_buffer("bargain", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def gradient_weights(self, gramian: Tensor) -> Tensor:
        """Returns α, clipped so that the direction's norm is at most `max_norm`."""
        if int(self.steps) % self.every == 0:
            self.bargain.copy_(super().gradient_weights(gramian))
        self.steps += 1
        weights = self.bargain.clone()
        norm = max(0.0, float(weights @ gramian @ weights)) ** 0.5
        if self.max_norm and norm > self.max_norm:
            weights = weights * (self.max_norm / norm)
        return weights

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns the bargain α, (S,)."""
        # For gradients of length 1 the equation is one of cosines, whatever the tasks' scales are.
        lengths = gramian.diagonal().sqrt()
        values, vectors = torch.linalg.eigh(gramian / lengths.outer(lengths))
        cosines = (vectors * values.clamp(min=_LEAST)) @ vectors.T
        return _bargain(cosines) / lengths


def _bargain(products: Tensor) -> Tensor:
    """Returns α > 0 with G α = 1/α for a positive definite G, by damped Newton steps."""
    alpha = products.diagonal().rsqrt()
    for _ in range(_MOST_STEPS):
        gradient = products @ alpha - 1 / alpha
        step = torch.linalg.solve(products + (1 / alpha**2).diag(), -gradient)
        decrement = max(0.0, float(-gradient @ step)) ** 0.5
        # The function is self-concordant: this damping keeps α positive and converges from everywhere.
        alpha = alpha + step / (1 + decrement) if decrement > 0.25 else alpha + step
        if decrement < _EXACT:
            break
    return alpha
