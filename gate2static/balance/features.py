"""The shared features Z of a network, caught where its shared module returns them."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gate2static.errors import BalanceError

_CUT: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[FeatureTap]]" = weakref.WeakKeyDictionary()
"""Module -> the tap that cuts the graph behind it."""


class FeatureTap:
    """Cuts the graph behind a module, so that the gradients with respect to its outputs can be changed.

    While gradients are recorded, what reads the module's outputs gets copies: detached ones, so that another gradient
    can be passed on through the cut, or views. Gradients with respect to the copies are those of what reads them alone,
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
        if cuts and module in _CUT and _CUT[module]() is not None:
            raise BalanceError(
                "another method works at the features of this module already; take it off first, by its `remove()`"
            )
        self.features: list[Tensor] = []
        self.copies: list[Tensor] = []
        self._cuts = cuts
        self._of_input = of_input
        self._module = weakref.ref(module)
        # The module must not keep the tap alive: with its method gone, the network is whole again.
        tap = weakref.ref(self)

        def is_at_work(called: nn.Module) -> "FeatureTap | None":
            # A copy of the network has this hook too.
            return found if (found := tap()) is not None and called is found._module() else None

        if of_input is None:
            self._handle = module.register_forward_hook(
                lambda called, inputs, output: found._hook(output) if (found := is_at_work(called)) else None
            )
        else:
            self._handle = module.register_forward_pre_hook(
                lambda called, inputs: found._record(inputs) if (found := is_at_work(called)) else None
            )
        if cuts:
            _CUT[module] = tap

    def __del__(self) -> None:
        """Takes the hook off the module."""
        if hasattr(self, "_handle"):
            self._handle.remove()

    def _record(self, inputs: Any) -> None:
        assert self._of_input is not None
        feature = inputs[self._of_input]
        if torch.is_grad_enabled() and feature.requires_grad:
            self.features.append(feature)
            self.copies.append(feature)

    def _hook(self, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        return pytree.tree_map_only(Tensor, self._cut, output)

    def _cut(self, feature: Tensor) -> Tensor:
        if not feature.requires_grad:
            return feature
        copy = feature.detach().requires_grad_() if self._cuts else feature.view_as(feature)
        self.features.append(feature)
        self.copies.append(copy)
        # A head may work in place, which autograd allows on no leaf.
        return copy.clone() if self._cuts else copy

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

    def forget_unused(self, gradients: Sequence[Sequence[Tensor | None]]) -> list[list[Tensor | None]]:
        """Forgets the features that no task read, as of a forward pass that was only looked at.

        Args:
            gradients: For every row, one gradient per copy.

        Returns:
            The gradients without those of the forgotten copies.
        """
        used = [number for number in range(len(self.copies)) if any(row[number] is not None for row in gradients)]
        self.features = [self.features[number] for number in used]
        self.copies = [self.copies[number] for number in used]
        sizes = {tuple(copy.shape[:1]) for copy in self.copies}
        if len(sizes) > 1 or () in sizes:
            found = ", ".join(str(list(copy.shape)) for copy in self.copies)
            raise BalanceError(f"features must have one batch size, and these have the shapes {found}")
        return [[row[number] for number in used] for row in gradients]

    def rows(self, gradients: Sequence[Sequence[Tensor | None]], scale: float) -> Tensor:
        """Returns gradients with respect to all features, (rows, N, elements per sample) float32 or wider.

        Args:
            gradients: For every row, one gradient per copy; None for a copy that was not used.
            scale: What the gradients are divided by.
        """
        first = self.copies[0]
        # Filled in place: features are large, and every further copy of them shows in the time of a step.
        rows = torch.zeros(len(gradients), len(first), sum(self._sizes), dtype=_wide(first.dtype), device=first.device)
        for row, parts in zip(rows, gradients, strict=True):
            for place, part in zip(row.split(self._sizes, dim=1), parts, strict=True):
                if part is not None:
                    place.copy_(part.reshape(len(part), -1))
        return rows if scale == 1.0 else rows.div_(scale)

    @property
    def _sizes(self) -> list[int]:
        return [copy[0].numel() for copy in self.copies]

    def values(self) -> Tensor:
        """Returns all features as one matrix, (N, elements per sample)."""
        whole = [feature.detach().reshape(len(feature), -1) for feature in self.features]
        return torch.cat([part.to(_wide(part.dtype)) for part in whole], dim=1)

    def parts(self, direction: Tensor) -> list[Tensor]:
        """Returns a direction, (N, elements per sample), as one gradient per feature."""
        by_feature = zip(self.features, direction.split(self._sizes, dim=1), strict=True)
        return [part.reshape(feature.shape).to(feature) for feature, part in by_feature]

    def clear(self) -> None:
        """Forgets the features, once their step is over."""
        self.features.clear()
        self.copies.clear()

    def remove(self) -> None:
        """Removes the cut from the module."""
        self.clear()
        self._handle.remove()
        module = self._module()
        if module is not None and _CUT.get(module) is not None and _CUT[module]() is self:
            del _CUT[module]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Returns float32 at least: half precision holds no sums of products."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32
