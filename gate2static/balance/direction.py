"""From the tasks' gradients to the direction of the shared part, at the wanted scale."""

from typing import Literal

import torch
from torch import Tensor

from gate2static.balance import processes
from gate2static.balance.backward_pass import NotFiniteError
from gate2static.balance.features import FeatureTap
from gate2static.balance.method import GramianMethod, Method, RowsMethod, gramian_of

Scale = Literal["method", "sum"]
"""Whether a direction keeps the length that its method gives it, or gets that of the sum of the tasks' gradients."""


class Direction:
    """What a method makes of the tasks' gradients.

    Attributes:
        weights: The weights of the gradients in the last step, (T,); None where it is no weighted sum.
        length: The last direction's length over that of the sum of the tasks' gradients.

    Args:
        method: The method.
        scale: The wanted length.
    """

    def __init__(self, method: Method, scale: Scale) -> None:
        self._method = method
        self._scale = scale
        self.weights: Tensor | None = None
        self.length = 1.0

    def at_parameters(self, rows: Tensor) -> Tensor:
        """Returns the direction for the gradients of the whole batch, (T, n) -> (n,).

        Raises:
            NotFiniteError: A gradient is not finite.
        """
        if isinstance(self._method, RowsMethod):
            _check_finite(rows.sum(1))
            return self._scaled(self._method.aggregate(rows), rows.sum(0))
        return self._weigh(gramian_of(rows)).to(rows) @ rows

    def at_features(self, rows: Tensor, tap: FeatureTap) -> Tensor:
        """Returns the direction for the features of this process, (T, N, elements) -> (N, elements).

        Args:
            rows: The gradients with respect to the features.
            tap: The cut that has the features themselves.

        Raises:
            NotFiniteError: A gradient is not finite.
        """
        flat = rows.flatten(1)
        if isinstance(self._method, RowsMethod):
            _check_finite(flat.sum(1))
            return self._scaled(self._method.aggregate_features(rows, tap.values()), rows.sum(0))
        gramian = processes.total_of_products(gramian_of(flat), rows.device)
        return (self._weigh(gramian).to(rows) @ flat).view(rows.shape[1:])

    def _weigh(self, gramian: Tensor) -> Tensor:
        assert isinstance(self._method, GramianMethod)
        _check_finite(gramian)
        weights = self._method.gradient_weights(gramian)
        length = float((weights @ gramian @ weights).clamp(min=0).sqrt())
        factor = self._factor(length, float(gramian.sum().clamp(min=0).sqrt()))
        self.weights = weights * factor
        return self.weights

    def _scaled(self, direction: Tensor, plain: Tensor) -> Tensor:
        squares = processes.mean(torch.stack([direction.square().sum(), plain.square().sum()]))
        length, plain_length = squares.sqrt().tolist()
        return direction * self._factor(length, plain_length)

    def _factor(self, length: float, plain_length: float) -> float:
        """Returns what a direction is multiplied by, and notes the length that it then has."""
        factor = plain_length / length if self._scale == "sum" and length > 0 else 1.0
        self.length = factor * length / plain_length if plain_length > 0 else 1.0
        return factor


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise NotFiniteError(
            "a gradient with respect to the shared part is not finite; lower the learning rate, or use 32-true"
        )
