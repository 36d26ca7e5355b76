"""Runs a model in another floating-point type without copying it: one layer at a time is converted."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from gate2static.gates.model import GatedModel
from gate2static.prune.static import StaticModel


class _InDtype(fx.Interpreter):
    """An interpreter whose modules and tensors take one dtype, in eval mode, as they are used."""

    def __init__(self, module: fx.GraphModule, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.dtype = dtype

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return converted(self.fetch_attr(str(target)), self.dtype)(*args, **kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return to_dtype(super().get_attr(target, args, kwargs), self.dtype)


def converted(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a module in eval mode, in another dtype."""
    return copy.deepcopy(module).to(dtype).eval()


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors converted, on the CPU; anything else as it is."""
    return value.to("cpu", dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@torch.no_grad()
def run_gated(gated: GatedModel, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The gated model's outputs in eval mode, computed in `dtype` on the CPU."""
    features = _InDtype(gated.encoder, dtype).run(*(to_dtype(x, dtype) for x in inputs))
    return {t: converted(gated.heads[t], dtype).cpu()(f) for t, f in zip(gated.tasks, features, strict=True)}


@torch.no_grad()
def run_static(static: StaticModel, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The static model's outputs, computed in `dtype` on the CPU."""
    outputs = _InDtype(static.network, dtype).run(*(to_dtype(x, dtype) for x in inputs))
    return dict(zip(static.tasks, pytree.tree_leaves(outputs), strict=True))
