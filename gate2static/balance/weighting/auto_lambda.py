"""Auto-λ (Liu et al. 2022): the losses' weights are trained so that the step that they lead to serves the tasks."""

from torch import Tensor
from torch.optim import Adam

from gate2static.arguments import require_number
from gate2static.balance.method import TrainedWeights
from gate2static.errors import BalanceError


class AutoLambda(TrainedWeights):
    """Weighs losses by λ, and moves λ along the gradient of the sum of other images' losses after a virtual step.

    `Balance.look_ahead` makes the virtual step θ' = θ - η ∇ Σ λ_t L_t(θ), without momentum. The derivative with respect
    to λ_t is -η ⟨∇L'(θ'), ∇L_t(θ)⟩, found by finite differences as in the official code.

    Args:
        count: The number of tasks, T.
        start: The first λ; the official code's 0.1 makes the first steps ten times smaller than those of a sum.
        lr: The learning rate of λ: 1e-4 in the official code, 3e-5 for CityScapes.
        seed: Not used.
    """

    def __init__(self, count: int, *, start: float = 0.1, lr: float = 1e-4, seed: int = 0) -> None:
        require_number(start, name="start of auto_lambda", error=BalanceError, least=1e-9)
        require_number(lr, name="lr of auto_lambda", error=BalanceError, least=0.0)
        super().__init__(count, start=start, optimiser=Adam, lr=lr, seed=seed)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns λ."""
        return self.numbers.detach().to(losses)
