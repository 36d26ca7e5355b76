"""Cosine regularisation (CosReg; Suteu and Guo 2019)."""

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.method import Method
from gate2static.errors import BalanceError


class CosReg(Method):
    """Adds λ times the mean of cos²(g_i, g_j) over i ≠ j to the sum of the losses: gradients become orthogonal.

    The penalty's gradient needs second derivatives. The code from which Robust Analysis grew takes gradients without
    them, so its penalty has no effect (reading 13 of docs/methods.md).

    Args:
        count: The number of tasks, T.
        weight: λ, in units of the losses.
        seed: Not used.
    """

    levels = ("parameters", "features")

    def __init__(self, count: int, *, weight: float = 10.0, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self.weight = require_number(weight, name="weight of cosreg", error=BalanceError, least=0.0)

    def penalty(self, gramian: Tensor) -> Tensor:
        """Returns λ mean cos², a scalar.

        Args:
            gramian: The inner products of the gradients, (T, T); pairs with a zero gradient count as orthogonal.
        """
        norms = gramian.diagonal()
        present = norms > 0
        squares = norms.where(present, 1)
        cosines = gramian**2 / squares.outer(squares) * present.outer(present)
        pairs = max(1, self.count * (self.count - 1))
        return self.weight * (cosines.sum() - cosines.diagonal().sum()) / pairs

    def slopes(self, gramian: Tensor) -> Tensor:
        """Returns the matrix S, (T, T), for which S @ rows is the penalty's gradient with respect to the rows."""
        with torch.enable_grad():
            values = gramian.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.penalty(values), values)
        return slope + slope.T
