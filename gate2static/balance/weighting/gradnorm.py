"""GradNorm (Chen et al. 2018)."""

import torch
from torch import Tensor
from torch.optim import Adam

from gate2static.arguments import require_number
from gate2static.balance.method import TrainedWeights
from gate2static.errors import BalanceError

_SMALLEST = 1e-4
"""The smallest weight: Adam may step below 0, and a negative weight would train a task backwards."""


class GradNorm(TrainedWeights):
    """Trains the losses' weights so that the tasks' gradients have similar norms at the last shared layer.

    The norm of w_t ∇L_t follows its mean over the tasks times (r_t / r̄)^α, where r_t is L_t over its value in the first
    step. The weights are kept at a sum of T. At features, the norm is that of w_t ∇_Z L_t.

    Args:
        count: The number of tasks, T.
        alpha: How strongly slow tasks are favoured; LibMTL's value is the default.
        lr: The learning rate of the weights; there is no official code, and others use the network's.
        seed: Not used.
    """

    levels = ("parameters", "features")
    first: Tensor

    def __init__(self, count: int, *, alpha: float = 1.5, lr: float = 1e-3, seed: int = 0) -> None:
        require_number(lr, name="lr of gradnorm", error=BalanceError, least=0.0)
        super().__init__(count, start=1.0, optimiser=Adam, lr=lr, seed=seed)
        self.alpha = require_number(alpha, name="alpha of gradnorm", error=BalanceError)
        self.register_buffer("first", torch.zeros(count, dtype=torch.float64))

    def weights(self, losses: Tensor) -> Tensor:
        """Returns the trained weights, which add up to T."""
        return self.numbers.detach().to(losses)

    def update_by_norms(self, losses: Tensor, norms: Tensor) -> None:
        """Moves the weights along the gradient of Σ |w_t n_t - target_t|, where the targets are constants.

        Args:
            losses: The losses L_t without weights, (T,).
            norms: The norms n_t of their gradients, (T,); a task whose norm is 0 keeps its weight.
        """
        if not bool((self.first > 0).any()):
            self.first.copy_(losses)
        present = (norms > 0) & (self.first > 0)
        if not bool(present.any()):
            return
        ratios = losses[present] / self.first[present]
        weighted = self.weights(losses)[present] * norms[present]
        targets = weighted.mean() * (ratios / ratios.mean()) ** self.alpha
        gradient = torch.zeros_like(norms)
        gradient[present] = (weighted - targets).sign() * norms[present]
        self.descend(gradient)
        with torch.no_grad():
            self.numbers.clamp_(min=_SMALLEST)
            self.numbers.mul_(self.count / self.numbers.sum())
