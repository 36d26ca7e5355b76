"""Uncertainty weights (Kendall et al. 2018)."""

from torch import Tensor
from torch.optim import Adam

from gate2static.arguments import require_number
from gate2static.balance.method import TrainedWeights
from gate2static.errors import BalanceError


class Uncertainty(TrainedWeights):
    """Minimises Σ (½ e^(-s_t) L_t + ½ s_t) with respect to s too, by an Adam of its own.

    Args:
        count: The number of tasks, T.
        lr: The learning rate of s. Others train s at the network's own rate.
        start: The first s: 0, -0.5, -0.7 and 1 are in use. With 0 every loss starts with the weight ½.
        seed: Not used.
    """

    def __init__(self, count: int, *, lr: float = 1e-3, start: float = 0.0, seed: int = 0) -> None:
        require_number(lr, name="lr of uncertainty", error=BalanceError, least=0.0)
        require_number(start, name="start of uncertainty", error=BalanceError)
        super().__init__(count, start=start, optimiser=Adam, lr=lr, seed=seed)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns ½ e^(-s)."""
        return 0.5 * (-self.numbers.detach()).exp().to(losses)

    def update(self, losses: Tensor) -> None:
        """Moves s along the gradient ½ (1 - e^(-s) L)."""
        self.descend(0.5 - self.weights(losses) * losses)
