"""Torch's other names for its functions and arguments, most of them NumPy's: a graph has one of each.

Torch takes `axis` wherever its own functions take `dim`, and has several names for the same function.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

_ARGUMENTS = {
    "axis": "dim", "keepdims": "keepdim", "axis0": "dim0", "axis1": "dim1", "x": "input", "a": "input", "x1": "input",
    "x2": "other",
}  # fmt: skip
_FUNCTIONS = {
    "concat": "cat", "concatenate": "cat", "multiply": "mul", "subtract": "sub", "divide": "div",
    "true_divide": "div", "negative": "neg", "absolute": "abs", "clip": "clamp", "fix": "trunc",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim", "arccos": "acos", "arccosh": "acosh",
    "arcsin": "asin", "arcsinh": "asinh", "arctan": "atan", "arctanh": "atanh", "arctan2": "atan2", "greater": "gt",
    "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "linalg_matmul": "matmul",
    "special_expit": "sigmoid", "special_softmax": "softmax", "special_log_softmax": "log_softmax",
}  # fmt: skip
_STACKS = {"hstack": 1, "column_stack": 1, "vstack": 0, "row_stack": 0, "dstack": 2}
"""Function -> the dimension along which it is `torch.cat`, for tensors that have it."""


def canonical(
    kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape_of: Callable[[Any], Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A call's target and arguments under torch's first names.

    Args:
        kind: the node's; only calls of functions and methods have other names.
        target: what is called.
        args: its positional arguments.
        kwargs: its named arguments.
        shape_of: the shape of an argument; None where it is no tensor.
    """
    name = target if kind == "call_method" else getattr(target, "__name__", "")
    stem = str(name).rstrip("_")
    if not (stem in _FUNCTIONS or stem in _STACKS or _ARGUMENTS.keys() & kwargs) or not hasattr(torch.ops.aten, name):
        return target, args, kwargs
    if kind == "call_method":
        if not args or shape_of(args[0]) is None:
            return target, args, kwargs
    elif kind != "call_function" or not isinstance(target, types.BuiltinFunctionType):
        return target, args, kwargs
    if stem in _STACKS:
        tensors = args[0] if args else kwargs["tensors"]
        known = isinstance(tensors, list | tuple) and len(shape_of(tensors[0]) or ()) > _STACKS[stem]
        return (torch.cat, (tensors, _STACKS[stem]), {}) if known else (target, args, kwargs)
    kwargs = {_argument(name, argument): value for argument, value in kwargs.items()}
    if stem in _FUNCTIONS:
        plain = _FUNCTIONS[stem] + name[len(stem) :]
        target = plain if kind == "call_method" else getattr(torch, plain, target)
    return target, args, kwargs


@functools.cache
def _argument(function: str, name: str) -> str:
    """Torch's own name of an argument, unless the function really has one of this name."""
    packet = getattr(torch.ops.aten, function)
    own = {argument.name for overload in packet.overloads() for argument in getattr(packet, overload)._schema.arguments}
    return name if name in own and name not in ("axis0", "axis1") else _ARGUMENTS.get(name, name)
