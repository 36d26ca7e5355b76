"""Runs a model in another floating-point type without copying it: one layer at a time is converted."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from gate2static.errors import VerificationError
from gate2static.gates.model import GatedModel
from gate2static.static.model import StaticModel


class _InDtype(fx.Interpreter):
    """An interpreter whose modules and tensors are rounded to one dtype and run in another, in eval mode."""

    def __init__(self, module: fx.GraphModule, dtype: torch.dtype, rounded_to: torch.dtype) -> None:
        super().__init__(module)
        self.dtype, self.rounded_to = dtype, rounded_to

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = converted(self.fetch_attr(str(target)), self.dtype, self.rounded_to)
        with _OneFloat(self.dtype):
            return module(*args, **kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with _OneFloat(self.dtype):
            return super().call_function(target, *_in_dtype((args, kwargs), self.dtype))

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with _OneFloat(self.dtype):
            return super().call_method(target, args, kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return to_dtype(to_dtype(super().get_attr(target, args, kwargs), self.rounded_to), self.dtype)


class _OneFloat(TorchFunctionMode):
    """Code that asks for a floating-point type gets the one it runs in, inside modules too."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CONVERSIONS:
            return args[0].to(self.dtype)
        return func(*_in_dtype(args, self.dtype), **_in_dtype(kwargs or {}, self.dtype))


_CONVERSIONS = (Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16)


def _in_dtype(arguments: Any, dtype: torch.dtype) -> Any:
    """A floating-point type that code names is the one it was made in; here it means the one it runs in."""
    return pytree.tree_map_only(torch.dtype, lambda d: dtype if d.is_floating_point else d, arguments)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Numbers that code makes without naming a type are of this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
    heads = {task: converted(gated.heads[task], dtype, stored) for task in gated.tasks}
    with _default(dtype):
        features = _InDtype(gated.encoder, dtype, stored).run(*(to_dtype(x, dtype) for x in inputs))
        with _OneFloat(dtype):
            return {task: heads[task](f) for task, f in zip(gated.tasks, features, strict=True)}


@torch.no_grad()
def run_static(static: StaticModel, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The static model's outputs, computed in `dtype` on the CPU."""
    with _default(dtype):
        outputs = _InDtype(static.network, dtype, dtype).run(*(to_dtype(x, dtype) for x in inputs))
    return dict(zip(static.tasks, pytree.tree_leaves(outputs), strict=True))
