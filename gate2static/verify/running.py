"""Runs a model in another floating-point type without a copy of the model: layers are converted one at a time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from gate2static.errors import VerificationError
from gate2static.gates.model import GatedModel
from gate2static.graphs import copied
from gate2static.program.heads import named_outputs
from gate2static.static.model import TORCHS_ERRORS, StaticModel, not_computable


class _InDtype(fx.Interpreter):
    """An interpreter whose modules and tensors are rounded to one dtype and run in another, in eval mode."""

    def __init__(self, module: fx.GraphModule, dtype: torch.dtype, rounded_to: torch.dtype) -> None:
        super().__init__(module)
        self.dtype = dtype
        self.rounded_to = rounded_to

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = converted(self.fetch_attr(str(target)), self.dtype, self.rounded_to)
        # The copy lives for this call only, so memory holds one converted layer at a time.
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
    """A context in which code that asks for any floating-point type gets one given type, inside modules too."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _CONVERSIONS:
            return args[0].to(self.dtype)
        return func(*_in_dtype(args, self.dtype), **_in_dtype(kwargs or {}, self.dtype))


_CONVERSIONS = (Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16)


def _in_dtype(arguments: Any, dtype: torch.dtype) -> Any:
    """Replaces floating-point types in arguments: a type that the code names stands for the type that it runs in."""
    return pytree.tree_map_only(torch.dtype, lambda d: dtype if d.is_floating_point else d, arguments)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Makes a type the default of new tensors within a block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def converted(module: nn.Module, dtype: torch.dtype, rounded_to: torch.dtype) -> nn.Module:
    """Returns a copy of a module on the CPU in eval mode, with weights rounded to one dtype and stored in another."""
    try:
        return copied(module).to("cpu", rounded_to).to(dtype).eval()
    except RuntimeError as error:
        raise VerificationError(f"a layer cannot be copied to run in {dtype}: {str(error).splitlines()[0]}") from error


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Returns a floating-point tensor on the CPU in another dtype; other values are returned unchanged."""
    return value.to("cpu", dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@torch.no_grad()
def run_gated(
    gated: GatedModel, inputs: tuple[Tensor, ...], dtype: torch.dtype, *, rounded_to: torch.dtype | None = None
) -> Mapping[str, Tensor]:
    """Computes a gated model's outputs on the CPU in eval mode.

    Args:
        gated: The gated model, whose program may have the heads of some tasks only; it is not changed.
        inputs: The model's inputs.
        dtype: The dtype to compute in.
        rounded_to: The dtype that weights are first rounded to; None leaves them as they are.

    Returns:
        The outputs by name.
    """
    stored = dtype if rounded_to is None else rounded_to
    heads = {task: converted(gated.heads[task], dtype, stored) for task in gated.program.heads}
    with _default(dtype):
        features = _InDtype(gated.encoder, dtype, stored).run(*(to_dtype(x, dtype) for x in inputs))
        with _OneFloat(dtype):
            by_task = dict(zip(gated.tasks, gated.features(features), strict=True))
            results = {task: head(by_task[task]) for task, head in heads.items()}
    return named_outputs(results)


@torch.no_grad()
def run_static(static: StaticModel, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Mapping[str, Tensor]:
    """Computes a static model's outputs by name, on the CPU in a given dtype."""
    try:
        with _default(dtype):
            outputs = _InDtype(static.network, dtype, dtype).run(*(to_dtype(x, dtype) for x in inputs))
    except TORCHS_ERRORS as error:
        raise not_computable(error) from error
    return dict(zip(static.output_names, outputs, strict=True))
