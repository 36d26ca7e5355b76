"""Measures of conflict between tasks (Robust Analysis, eq. 5 to 8)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gate2static.balance import processes

_NEVER_ZERO = 1e-7
"""Added inside the logarithm, as in the code from which Robust Analysis grew."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """How much the tasks' gradients conflict in one step.

    Attributes:
        gds: Gradient direction similarity (eq. 5): the mean cosine over all pairs of tasks, in [-1, 1].
        gms: Gradient magnitude similarity (eq. 6): the mean of 2 ‖g_i‖ ‖g_j‖ / (‖g_i‖² + ‖g_j‖²), in [0, 1]. The
            paper's eq. 6a prints ‖g_j‖² twice in the denominator, which is unbounded.
        fd: Feature disentanglement (eq. 7 and 8): the mean over the features' elements of the entropy of the shares of
            the tasks' |gradients|, in [0, ln T]; low where elements belong to one task. None without features.
        fd_where_used: The same over the elements for which some task has a gradient: a dead ReLU or a masked pixel
            counts as disentangled in `fd`.
        fd_smoothed: The same with the softmax of |gradient| / temperature as shares, the other reading of the paper's
            "smoothened" distribution; a dead element counts as ln T. None without a temperature.
    """

    gds: float
    gms: float
    fd: float | None = None
    fd_where_used: float | None = None
    fd_smoothed: float | None = None

    def values(self) -> dict[str, float]:
        """Returns the measures that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def similarities(gramian: Tensor) -> tuple[float, float]:
    """Returns GDS and GMS (eq. 5 and 6) of gradients with these inner products, (T, T).

    A task without a gradient is left out; with fewer than two others both are 0.
    """
    present = gramian.diagonal() > 0
    products = gramian[present][:, present]
    count = len(products)
    if count < 2:
        return 0.0, 0.0
    norms = products.diagonal().sqrt()
    outer = norms.outer(norms)
    others = ~torch.eye(count, dtype=torch.bool)
    squares = norms.square()
    magnitudes = 2 * outer / (squares[:, None] + squares[None, :])
    return float((products / outer)[others].mean()), float(magnitudes[others].mean())


def disentanglement(magnitudes: Tensor, temperature: float | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the three readings of FD (eq. 7 and 8), as scalars: `fd`, `fd_where_used` and `fd_smoothed`.

    Args:
        magnitudes: The absolute values of the tasks' gradients with respect to the features, (T, elements).
        temperature: The temperature of the smoothed reading; None leaves it out.
    """
    total = magnitudes.sum(0)
    entropies = _entropy(magnitudes / (total + _NEVER_ZERO * total.mean()).clamp(min=torch.finfo(total.dtype).tiny))
    smoothed = None if temperature is None else _mean(_entropy((magnitudes / temperature).softmax(0)))
    return _mean(entropies), _mean(entropies[total > 0]), smoothed


def _mean(values: Tensor) -> Tensor:
    """Returns the mean over the elements of all processes, which may have samples of different number; 0 for none."""
    counted = processes.mean(torch.stack([values.sum(), values.new_tensor(float(values.numel()))]))
    return counted[0] / counted[1].clamp(min=torch.finfo(values.dtype).tiny)


def _entropy(shares: Tensor) -> Tensor:
    """Returns the entropy over the tasks in nats, (T, elements) -> (elements,)."""
    return -(shares * (shares + _NEVER_ZERO).log()).sum(0)
