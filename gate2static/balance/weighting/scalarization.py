"""Losses joined by a function that TorchJD has: the weights are its derivatives."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gate2static.arguments import require_number
from gate2static.balance.method import Method
from gate2static.errors import BalanceError
from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from torchjd.scalarization import Scalarizer


class _Scalarization(Method):
    needs_losses = True

    def __init__(self, count: int, scalarizer: "Scalarizer", *, seed: int = 0) -> None:
        super().__init__(count, seed=seed)
        self._scalarizer = scalarizer

    def weights(self, losses: Tensor) -> Tensor:
        """Returns the function's derivatives at the losses."""
        with torch.enable_grad():
            values = losses.detach().requires_grad_()
            (derivatives,) = torch.autograd.grad(self._scalarizer(values), values)
        return derivatives


class GeometricMean(_Scalarization):
    """GLS: minimises the geometric mean of the losses, which must be positive (Chennupati et al. 2019)."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__(count, require("torchjd.scalarization").GeometricMean(), seed=seed)


class SmoothTchebycheff(_Scalarization):
    """STCH: minimises a smooth maximum of the losses (Lin et al. 2024).

    Args:
        count: The number of tasks, T.
        mu: The smoothness; small values come close to the maximum.
        seed: Not used.
    """

    def __init__(self, count: int, *, mu: float = 1.0, seed: int = 0) -> None:
        smoothness = require_number(mu, name="mu of stch", error=BalanceError, least=1e-6)
        super().__init__(count, require("torchjd.scalarization").STCH(smoothness), seed=seed)
