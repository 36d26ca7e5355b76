"""The multiple-gradient descent algorithm (MGDA; Sener and Koltun 2018)."""

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from gate2static.balance.aggregation.square_root import square_root
from gate2static.balance.method import GramianMethod, choice


class MGDA(GramianMethod):
    """The shortest vector in the convex hull of the gradients; at features, this is MGDA-UB.

    Args:
        count: The number of tasks, T.
        normalise: What gradients are divided by while their weights are found: `none`, their norm (`l2`), their `loss`,
            or both (`loss+`). The official code has these, and its paper has none of them.
        seed: Not used.
    """

    def __init__(self, count: int, *, normalise: str = "none", seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.normalise = choice(normalise, ("none", "l2", "loss", "loss+"), name="normalise of mgda")
        self.needs_losses = self.normalise in ("loss", "loss+")
        self._losses = torch.ones(count, dtype=torch.float64)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns ones, and keeps the losses for their gradients' normalisation."""
        self._losses = losses
        return super().weights(losses)

    def gradient_weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights of normalised gradients, which multiply the gradients themselves as in official code."""
        divisors = torch.ones(len(gramian), dtype=gramian.dtype)
        if self.normalise in ("l2", "loss+"):
            norms = gramian.diagonal().sqrt()
            divisors = torch.where(norms > 0, norms, 1.0)
        if self.normalise in ("loss", "loss+"):
            divisors = divisors * torch.where(self._losses > 0, self._losses, 1.0)
        return super().gradient_weights(gramian / divisors.outer(divisors))

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns α of the simplex with the smallest αᵀ G α, exactly.

        For α ≥ 0 of any sum, ‖Rα‖² + m² (Σα - 1)² with RᵀR = G is least at a multiple of that α, whatever m is: along a
        ray the first term alone decides. Scipy's non-negative least squares finds it in finitely many steps.
        """
        root = square_root(gramian)
        scale = float(np.sqrt(np.trace(root @ root) / len(root)))
        system = np.vstack([root, np.full((1, len(root)), scale)])
        solution, _ = nnls(system, np.append(np.zeros(len(root)), scale))
        return torch.from_numpy(solution / solution.sum()).to(gramian)
