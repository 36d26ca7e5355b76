"""Impartial multi-task learning as a whole (IMTL; Liu et al. 2021)."""

from torch import Tensor

from gate2static.balance.aggregation.torchjd_aggregators import ImpartialGradients
from gate2static.balance.weighting.imtl_l import ImpartialLosses


class Impartial(ImpartialGradients):
    """IMTL: the losses are scaled by IMTL-L, and the gradients of the scaled losses are combined by IMTL-G.

    Args:
        count: The number of tasks, T.
        lr: The learning rate of IMTL-L.
        seed: Not used.
    """

    def __init__(self, count: int, *, lr: float = 1e-3, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.scaling = ImpartialLosses(count, lr=lr)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns the weights of IMTL-L."""
        return self.scaling.weights(losses)

    def update(self, losses: Tensor) -> None:
        """Trains IMTL-L."""
        self.scaling.update(losses)
