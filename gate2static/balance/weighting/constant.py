"""Equal weights (EW): the sum of the losses, or their mean."""

from torch import Tensor

from gate2static.balance.method import Method


class Sum(Method):
    """The sum of the losses, which is plain training (eq. 1 of GatedMTL; eq. 4 of Robust Analysis)."""


class Mean(Method):
    """The mean of the losses, the baseline in the text of Robust Analysis: 1/T of the sum's gradient."""

    def weights(self, losses: Tensor) -> Tensor:
        """Returns 1/T for every task."""
        return super().weights(losses) / self.count
