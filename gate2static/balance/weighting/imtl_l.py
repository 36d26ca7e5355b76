"""The loss part of impartial multi-task learning (IMTL-L; Liu et al. 2021)."""

from torch import Tensor
from torch.optim import Adam

from gate2static.arguments import require_number
from gate2static.balance.method import TrainedWeights
from gate2static.errors import BalanceError


class ImpartialLosses(TrainedWeights):
    """IMTL-L: minimises Σ (e^(s_t) L_t - s_t) with respect to s too, which brings every e^(s_t) L_t to 1.

    Args:
        count: The number of tasks, T.
        lr: The learning rate of s. Others train s at the network's own rate.
        seed: Not used.
    """

    def __init__(self, count: int, *, lr: float = 1e-3, seed: int = 0) -> None:
        require_number(lr, name="lr of imtl", error=BalanceError, least=0.0)
        super().__init__(count, start=0.0, optimiser=Adam, lr=lr, seed=seed)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns e^s."""
        return self.numbers.detach().exp().to(losses)

    def update(self, losses: Tensor) -> None:
        """Moves s along the gradient e^s L - 1."""
        self.descend(self.weights(losses) * losses - 1)
