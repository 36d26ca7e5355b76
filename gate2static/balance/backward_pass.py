"""One backward pass, run as the training wants it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gate2static.errors import BalanceError

Backward = Callable[..., None]
"""Runs a backward pass of a scalar; takes the keywords of `Tensor.backward`."""


class NotFiniteError(BalanceError):
    """A gradient that is not finite; a gradient scaler skips the step that it is in."""


class BackwardPass:
    """Runs backward passes.

    Attributes:
        loss_scale: What losses are multiplied by, and gradients with them.
        is_plain: Whether passes are torch's own, without a scale.

    Args:
        backward: Runs one pass; None is torch's own.
        loss_scale: What it multiplies losses by.
    """

    def __init__(self, backward: Backward | None, loss_scale: float) -> None:
        self._backward = backward or Tensor.backward
        self.loss_scale = loss_scale
        self.is_plain = backward is None

    def __call__(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Adds the gradients of a loss to `.grad` of everything that it depends on, which may be nothing."""
        if not loss.requires_grad:
            return
        self._backward(loss, retain_graph=retain_graph)

    def gradients(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """Returns the gradients with respect to some tensors alone, in the losses' scale; the graph stays.

        Args:
            loss: The loss.
            inputs: The tensors, of the loss's graph.
        """
        if not loss.requires_grad:
            return [None] * len(inputs)
        if self.is_plain:
            return list(torch.autograd.grad(loss, list(inputs), retain_graph=True, allow_unused=True))
        # The training's own pass can only add to `.grad`.
        before = [x.grad for x in inputs]
        for x in inputs:
            x.grad = None
            if not x.is_leaf:
                x.retain_grad()
        self._backward(loss, retain_graph=True, inputs=list(inputs))
        gradients = [x.grad for x in inputs]
        for x, gradient in zip(inputs, before, strict=True):
            x.grad = gradient
        return gradients

    def go_on(self, values: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Passes gradients, without the losses' scale, on through what some values were computed from."""
        if self.is_plain:
            torch.autograd.backward(list(values), list(gradients))
            return
        # The gradient of ⟨value, gradient⟩ with respect to the value.
        products = [(value * gradient).sum() for value, gradient in zip(values, gradients, strict=True)]
        self._backward(torch.stack(products).sum())

    def or_skipped(self, direction: Callable[[], Tensor], rows: Tensor) -> Tensor:
        """Returns the direction, or a sum that is not finite where a gradient scaler is to skip the step."""
        try:
            return direction()
        except NotFiniteError:
            if self.loss_scale == 1.0:
                raise
            return rows.sum(0)
