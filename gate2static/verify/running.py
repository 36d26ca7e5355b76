"""Runs a model in another floating-point type without copying it: one layer at a time is converted."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from gate2static.errors import VerificationError
from gate2static.gates.model import GatedModel
from gate2static.prune.static import StaticModel


class _InDtype(fx.Interpreter):
    """An interpreter whose modules and tensors are rounded to one dtype and run in another, in eval mode."""

    def __init__(self, module: fx.GraphModule, dtype: torch.dtype, rounded_to: torch.dtype) -> None:
        super().__init__(module)
        self.dtype, self.rounded_to = dtype, rounded_to

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return converted(self.fetch_attr(str(target)), self.dtype, self.rounded_to)(*args, **kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_function(target, *pytree.tree_map(self._running, (args, kwargs)))

    def _running(self, value: Any) -> Any:
        """A floating-point type that the graph names is the one it was made in; here it means the one it runs in."""
        return self.dtype if isinstance(value, torch.dtype) and value.is_floating_point else value

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return to_dtype(to_dtype(super().get_attr(target, args, kwargs), self.rounded_to), self.dtype)


def converted(module: nn.Module, dtype: torch.dtype, rounded_to: torch.dtype) -> nn.Module:
    """A copy of a module in eval mode on the CPU, its weights rounded to one dtype and held in another."""
    try:
        return copy.deepcopy(module).to("cpu", rounded_to).to(dtype).eval()
    except RuntimeError as error:
        raise VerificationError(f"a layer cannot be copied to run in {dtype}: {str(error).splitlines()[0]}") from error


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors converted, on the CPU; anything else as it is."""
    return value.to("cpu", dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@torch.no_grad()
def run_gated(
    gated: GatedModel, inputs: tuple[Tensor, ...], dtype: torch.dtype, *, rounded_to: torch.dtype | None = None
) -> Mapping[str, Tensor]:
    """The gated model's outputs in eval mode, computed in `dtype` on the CPU, its weights rounded first if asked."""
    stored = dtype if rounded_to is None else rounded_to
    features = _InDtype(gated.encoder, dtype, stored).run(*(to_dtype(x, dtype) for x in inputs))
    heads = {task: converted(gated.heads[task], dtype, stored) for task in gated.tasks}
    return {task: heads[task](f) for task, f in zip(gated.tasks, features, strict=True)}


@torch.no_grad()
def run_static(static: StaticModel, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The static model's outputs, computed in `dtype` on the CPU."""
    outputs = _InDtype(static.network, dtype, dtype).run(*(to_dtype(x, dtype) for x in inputs))
    return dict(zip(static.tasks, pytree.tree_leaves(outputs), strict=True))
