"""The shared features Z of a network, caught where its shared module returns them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gate2static.errors import BalanceError


class FeatureTap:
    """Cuts the graph behind a module, so that the gradients with respect to its outputs can be changed.

    While gradients are recorded, what reads the module's outputs gets copies: detached ones, so that `send_back` passes
    a gradient on through the cut, or views. Gradients with respect to the copies are those of what reads them alone,
    also where one output is computed from another, as in a pyramid. All this is one hook: the network's own code and
    state dict stay as they are.

    Attributes:
        features: The outputs in front of the cut, one tensor per output and call.
        copies: The copies behind it, which require gradients.

    Args:
        module: The module that computes the shared features.
        cuts: Whether the copies are detached; False leaves the graph whole.
        of_input: The number of the module's argument that holds the features; None for its output.
    """

    def __init__(self, module: nn.Module, *, cuts: bool = True, of_input: int | None = None) -> None:
        self.features: list[Tensor] = []
        self.copies: list[Tensor] = []
        self._cuts = cuts
        self._of_input = of_input
        if of_input is None:
            self._handle = module.register_forward_hook(self._hook)
        else:
            self._handle = module.register_forward_pre_hook(self._record)

    def _record(self, module: nn.Module, inputs: Any) -> None:
        assert self._of_input is not None
        feature = inputs[self._of_input]
        if torch.is_grad_enabled() and feature.requires_grad:
            self.features.append(feature)
            self.copies.append(feature)

    def _hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        return pytree.tree_map_only(Tensor, self._cut, output)

    def _cut(self, feature: Tensor) -> Tensor:
        if not feature.requires_grad:
            return feature
        copy = feature.detach().requires_grad_() if self._cuts else feature.view_as(feature)
        self.features.append(feature)
        self.copies.append(copy)
        return copy

    def caught(self) -> list[Tensor]:
        """Returns the copies.

        Raises:
            BalanceError: The module has not run with gradients since the last step.
        """
        if not self.copies:
            raise BalanceError(
                "the shared module has not run since the last step, so there are no features; run the network, with "
                "gradients, before `backward`"
            )
        return self.copies

    def take(self) -> list[Tensor | None]:
        """Returns the gradients that the copies have collected, and leaves none."""
        collected = [copy.grad for copy in self.copies]
        for copy in self.copies:
            copy.grad = None
        return collected

    def gradients(self, given: Sequence[Tensor | None]) -> Tensor:
        """Returns the gradients with respect to all features as one matrix, (N, elements per sample) float32 or wider.

        Args:
            given: One gradient per copy; None for a copy that was not used.
        """
        parts = []
        for copy, gradient in zip(self.copies, given, strict=True):
            whole = torch.zeros_like(copy) if gradient is None else gradient
            parts.append(_wide(whole).reshape(len(whole), -1))
        return torch.cat(parts, dim=1)

    def values(self) -> Tensor:
        """Returns all features as one matrix, (N, elements per sample)."""
        return torch.cat([_wide(feature.detach()).reshape(len(feature), -1) for feature in self.features], dim=1)

    def send_back(self, direction: Tensor) -> Tensor:
        """Returns ⟨Z, direction⟩, a scalar whose gradient with respect to Z is the direction.

        Args:
            direction: The gradient to pass on, (N, elements per sample).
        """
        sizes = [feature[0].numel() for feature in self.features]
        total = direction.new_zeros(())
        for feature, part in zip(self.features, direction.split(sizes, dim=1), strict=True):
            total = total + (feature * part.view_as(feature).to(feature)).sum()
        return total

    def clear(self) -> None:
        """Forgets the features, once their step is over."""
        self.features.clear()
        self.copies.clear()

    def remove(self) -> None:
        """Removes the cut from the module."""
        self.clear()
        self._handle.remove()


def _wide(value: Tensor) -> Tensor:
    """Returns a value in float32 at least: half precision holds no sums of products."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()
