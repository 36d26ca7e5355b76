"""What a multi-task optimisation method is: losses to weights, or the tasks' gradients to one direction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from gate2static.arguments import described
from gate2static.errors import BalanceError

Level = Literal["parameters", "features"]
"""Where a method takes the tasks' gradients: with respect to the shared parameters, or to the shared features Z."""


class Method(nn.Module):
    """One multi-task optimisation method for T tasks; everything that it remembers is in its `state_dict`.

    A method weighs the losses, which acts on all parameters, and may replace the sum of the tasks' gradients with
    respect to the shared part (`GramianMethod`, `RowsMethod`).

    Attributes:
        levels: Where the method can take the tasks' gradients; empty where it needs none.
        needs_losses: Whether the weights depend on the losses of the step that they weigh.
        needs_losses_again: Whether `look_back` wants the losses of the same batch after the step.

    Args:
        count: The number of tasks, T.
        seed: Seeds what the method draws. Every process draws the same.
    """

    levels: ClassVar[tuple[Level, ...]] = ()
    needs_losses: bool = False
    needs_losses_again: ClassVar[bool] = False

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__()
        self.count = count
        self._generator = torch.Generator().manual_seed(seed)

    def weights(self, losses: Tensor) -> Tensor:
        """Returns the weights of the losses, (T,) float64.

        Args:
            losses: The losses of the whole batch, (T,) float64 on the CPU.
        """
        return torch.ones_like(losses)

    def update(self, losses: Tensor) -> None:
        """Learns from the losses of a step, (T,), once the step's gradients are there."""

    def look_back(self, losses: Tensor) -> None:
        """Learns from the losses, (T,), of a step's batch after that step."""

    def end_epoch(self) -> None:
        """Learns from the epoch that just ended."""

    def get_extra_state(self) -> dict[str, Any]:
        """Returns the method's name and the state of its random numbers, for `state_dict`."""
        return {"method": type(self).__name__, "generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the random numbers.

        Raises:
            ValueError: The state is that of another method.
        """
        if state["method"] != type(self).__name__:
            raise ValueError(f"it is that of {state['method']}")
        self._generator.set_state(state["generator"])

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Lets code that draws from torch's global generator draw from the method's own."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._generator.get_state())
            yield
            self._generator.set_state(torch.get_rng_state())


class GramianMethod(Method):
    """A method whose direction is a weighted sum of the tasks' gradients, with weights that follow from their products.

    This is all that it needs at features, where a batch may be divided among processes: the products of the whole batch
    are the sums of the processes' own.
    """

    levels = ("parameters", "features")

    def gradient_weights(self, gramian: Tensor) -> Tensor:
        """Returns the weights of the tasks' gradients, (T,).

        Args:
            gramian: The inner products of the gradients, (T, T) float64 on the CPU. A task whose gradient is zero has a
                row and a column of zeros.
        """
        present = gramian.diagonal() > 0
        weights = torch.zeros_like(gramian.diagonal())
        if present.any():
            weights[present] = self.weights_of_present(gramian[present][:, present])
        return weights

    def weights_of_present(self, gramian: Tensor) -> Tensor:
        """Returns the weights of gradients none of which is zero, (S,): a task without gradient has no say.

        In a gated network a task whose gates are all its own has no gradient to the shared branch, and no smallest
        norm, no equal projection and no bargain may depend on it.

        Args:
            gramian: The inner products, (S, S).
        """
        raise NotImplementedError

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns the direction for gradients given as rows: (T, n) -> (n,)."""
        return self.gradient_weights(gramian_of(rows)).to(rows) @ rows


class RowsMethod(Method):
    """A method that works on the elements of the tasks' gradients.

    Attributes:
        divides_batches: Whether it works at features where each process has its share of the batch.
    """

    levels: ClassVar[tuple[Level, ...]] = ("parameters", "features")
    divides_batches: ClassVar[bool] = False

    def aggregate(self, rows: Tensor) -> Tensor:
        """Returns the direction for gradients given as rows: (T, n) -> (n,)."""
        raise NotImplementedError

    def aggregate_features(self, rows: Tensor, features: Tensor) -> Tensor:
        """Returns the direction for gradients with respect to features.

        Args:
            rows: The gradients, (T, N, elements per sample).
            features: The features themselves, (N, elements per sample).
        """
        return self.aggregate(rows.flatten(1)).view_as(features)


class TrainedWeights(Method):
    """A method that trains numbers of its own, one per task, by an optimiser of its own.

    Args:
        count: The number of tasks, T.
        start: The numbers' first value.
        optimiser: `Adam` or `SGD` of torch, with its arguments.
        options: The arguments.
        seed: As for `Method`.
    """

    def __init__(
        self, count: int, *, start: float, optimiser: type[torch.optim.Optimizer], seed: int = 0, **options: Any
    ) -> None:
        super().__init__(count, seed=seed)
        self.numbers = nn.Parameter(torch.full((count,), start, dtype=torch.float64))
        self._optimiser = optimiser([self.numbers], **options)

    def descend(self, gradient: Tensor) -> None:
        """Takes one step of the optimiser, given the gradient of the numbers, (T,)."""
        self.numbers.grad = gradient.to(self.numbers)
        self._optimiser.step()
        self.numbers.grad = None

    def get_extra_state(self) -> dict[str, Any]:
        """Returns the optimiser's state too, for `state_dict`."""
        return {**super().get_extra_state(), "optimiser": self._optimiser.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the optimiser's state too."""
        super().set_extra_state(state)
        self._optimiser.load_state_dict(state["optimiser"])


def gramian_of(rows: Tensor) -> Tensor:
    """Returns the inner products of rows, (T, n) -> (T, T) float64 on the CPU."""
    return (rows @ rows.T).double().cpu()


def choice(value: Any, allowed: tuple[str, ...], *, name: str) -> str:
    """Returns an option that is one of a few words.

    Raises:
        BalanceError: It is none of them.
    """
    if value not in allowed:
        raise BalanceError(f"{name} is {described(value)}; allowed: {', '.join(allowed)}.")
    return cast(str, value)
