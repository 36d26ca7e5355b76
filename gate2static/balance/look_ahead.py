"""The gradient of losses' weights through a virtual step, for Auto-λ."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gate2static.arguments import described
from gate2static.balance import processes
from gate2static.errors import BalanceError

_EPSILON = 0.01
"""The length of the finite difference's step in the space of the parameters, as in the official code."""


def gradient_of_weights(
    model: nn.Module,
    weights: Tensor,
    here: Callable[[], Mapping[str, Tensor]],
    there: Callable[[], Mapping[str, Tensor]],
    *,
    lr: float,
) -> Tensor:
    """Returns d Σ L'(θ - lr ∇ Σ w_t L_t(θ)) / d w_t = -lr ⟨∇ Σ L', ∇ L_t(θ)⟩, (T,) float64.

    The products are derivatives of L_t along ∇ Σ L', so two forward passes give all of them.

    Args:
        model: The network; parameters and buffers are as before afterwards.
        weights: The losses' weights w, (T,).
        here: Computes L_t.
        there: Computes L'_t, of other images.
        lr: The length of the virtual step.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    with buffers_kept(model), _put_back(trained, kept):
        losses_here = _losses(here, len(weights))
        weighted = [weight * loss for weight, loss in zip(weights.tolist(), losses_here, strict=True)]
        step = _gradients(weighted, trained)
        _move(trained, kept, step, -lr)
        direction = _gradients(_losses(there, len(weights)), trained)
        length = float(torch.stack([part.double().square().sum() for part in direction]).sum().sqrt())
        if length == 0:
            return torch.zeros_like(weights)
        size = _EPSILON / length
        losses = []
        for sign in (1, -1):
            _move(trained, kept, direction, sign * size)
            with torch.no_grad():
                losses.append(
                    processes.mean(torch.stack([loss.double() for loss in _losses(here, len(weights))])).cpu()
                )
        return -lr * (losses[0] - losses[1]) / (2 * size)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restores a model's buffers, such as the statistics of batch norm, after a further look at a batch."""
    buffers = list(model.buffers())
    with _put_back(buffers, [buffer.detach().clone() for buffer in buffers]):
        yield


@contextmanager
def _put_back(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Gives tensors these values in the end."""
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)


def _losses(compute: Callable[[], Mapping[str, Tensor]], count: int) -> list[Tensor]:
    losses = compute()
    if not isinstance(losses, Mapping) or len(losses) != count:
        raise BalanceError(f"look_ahead's functions return losses by task, {count} of them; found {described(losses)}")
    return list(losses.values())


def _gradients(losses: list[Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(torch.stack(losses).sum(), parameters, allow_unused=True)
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return [processes.mean(part) for part in whole]


def _move(parameters: list[nn.Parameter], start: list[Tensor], direction: list[Tensor], size: float) -> None:
    with torch.no_grad():
        for parameter, value, part in zip(parameters, start, direction, strict=True):
            parameter.copy_(value + size * part)
