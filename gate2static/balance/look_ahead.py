"""Gradients through a virtual step of the weights: of Auto-λ's weights, and of α in unrolled Safe MTL."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gate2static.arguments import described
from gate2static.balance import processes
from gate2static.errors import BalanceError

Gradients = Callable[[Sequence[nn.Parameter]], list[Tensor]]
"""Computes the gradients of a loss with respect to parameters, one tensor per parameter."""
_EPSILON = 0.01
"""The length of the finite difference's step in the space of float32 parameters, as in the official codes of Auto-λ and
of DARTS."""


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

    def step() -> list[Tensor]:
        losses = _losses(here, len(weights))
        return _gradients([weight * loss for weight, loss in zip(weights.tolist(), losses, strict=True)], trained)

    def look() -> Tensor:
        with torch.no_grad():
            losses = torch.stack([loss.double() for loss in _losses(here, len(weights))])
        return processes.mean(losses).cpu()

    with buffers_kept(model):
        return _through_step(trained, step, lambda: _gradients(_losses(there, len(weights)), trained), look, lr=lr)


def unrolled_gradient(
    alpha: nn.Parameter, weights: Sequence[nn.Parameter], here: Gradients, there: Gradients, *, lr: float
) -> Tensor:
    """Returns d L'(w - lr ∇_w L(w, α), α) / dα, in the shape of α, as DARTS approximates it (Liu et al. 2019, eq. 8).

    Args:
        alpha: α.
        weights: w; they are as before afterwards.
        here: Computes the gradients of L, of the images that w is trained on, with respect to some parameters.
        there: The same of L', of held-out images.
        lr: The length of the virtual step; with 0 this is the gradient of L' alone, to first order.
    """
    direct: list[Tensor] = []

    def judge() -> list[Tensor]:
        *direction, of_alpha = there([*weights, alpha])
        direct.append(of_alpha)
        return direction

    through_weights = _through_step(weights, lambda: here(weights), judge, lambda: here([alpha])[0], lr=lr)
    return direct[0] + through_weights


def _through_step(
    weights: Sequence[nn.Parameter],
    step: Callable[[], list[Tensor]],
    judge: Callable[[], list[Tensor]],
    look: Callable[[], Tensor],
    *,
    lr: float,
) -> Tensor:
    """Returns the derivative of L'(w - lr ∇_w L(w, a)) with respect to a, which is -lr ∇_a ⟨∇_w L(w, a), ∇L'⟩.

    The product is the derivative of ∇_a L along ∇L', a central difference: no second derivatives are needed, which
    some operators do not have.

    Args:
        weights: w; they are as before afterwards.
        step: Computes ∇_w L.
        judge: Computes ∇L', behind the virtual step.
        look: Computes ∇_a L.
        lr: The length of the virtual step.
    """
    kept = [weight.detach().clone() for weight in weights]
    with _put_back(weights, kept):
        _move(weights, kept, step(), -lr)
        direction = judge()
        length = float(torch.stack([part.double().square().sum() for part in direction]).sum().sqrt())
        # Curvature and rounding err least together at a length that goes with the cube root of the precision.
        precision = torch.finfo(kept[0].dtype).eps / torch.finfo(torch.float32).eps
        size = _EPSILON * precision ** (1 / 3) / (length or 1.0)
        ends = []
        for sign in (1, -1):
            _move(weights, kept, direction, sign * size)
            ends.append(look())
    derivative: Tensor = -lr * (ends[0] - ends[1]) / (2 * size)
    return derivative


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


def _move(parameters: Sequence[nn.Parameter], start: list[Tensor], direction: list[Tensor], size: float) -> None:
    with torch.no_grad():
        for parameter, value, part in zip(parameters, start, direction, strict=True):
            parameter.copy_(value + size * part)
