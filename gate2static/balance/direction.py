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


_NEARLY_NONE = 1e-6
"""A direction of less than this share of the sum's length is none, and is not drawn out to it."""


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
        plain = rows.sum(0)
        if isinstance(self._method, RowsMethod):
            _check_finite(rows.sum(1))
            return self._scaled(self._method.aggregate(rows), plain)
        return self._scaled(self._weigh(gramian_of(rows)).to(rows) @ rows, plain)

    def at_features(self, rows: Tensor, tap: FeatureTap) -> Tensor:
        """Returns the direction for the features of this process, (T, N, elements) -> (N, elements).

        Args:
            rows: The gradients with respect to the features.
            tap: The cut that has the features themselves.

        Raises:
            NotFiniteError: A gradient is not finite.
        """
        plain = rows.sum(0)
        flat = rows.flatten(1)
        if isinstance(self._method, RowsMethod):
            _check_finite(flat.sum(1))
            return self._scaled(self._method.aggregate_features(rows, tap.values()), plain)
        gramian = processes.total_of_products(gramian_of(flat), rows.device)
        return self._scaled((self._weigh(gramian).to(rows) @ flat).view_as(plain), plain)

    def _weigh(self, gramian: Tensor) -> Tensor:
        assert isinstance(self._method, GramianMethod)
        _check_finite(gramian)
        self.weights = self._method.gradient_weights(gramian)
        return self.weights

    def _scaled(self, direction: Tensor, plain: Tensor) -> Tensor:
        """Returns a direction at the wanted scale, and notes its length.

        Lengths are measured, and not taken from the Gramian, whose rounding is larger than a direction near 0.
        """
        squares = processes.mean(torch.stack([direction.square().sum(), plain.square().sum()]))
        length, plain_length = squares.sqrt().tolist()
        factor = 1.0
        if self._scale == "sum" and length > _NEARLY_NONE * plain_length:
            factor = plain_length / length
            direction = direction * factor
            self.weights = None if self.weights is None else self.weights * factor
        self.length = factor * length / plain_length if plain_length > 0 else 1.0
        return direction


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise NotFiniteError(
            "a gradient with respect to the shared part is not finite; lower the learning rate, or use 32-true"
        )
