"""Records torch's functions and arguments under one name each.

Torch takes `axis` wherever its own functions take `dim`, and has several names for the same function, most of them
NumPy's. A graph has the first of these names only, so that no rule reads an argument that the user's code spells
otherwise. `squeeze()` gets the dimensions that it removes: of a single sample it would remove the batch too.
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
"""Another name of an argument -> torch's first name."""

_FUNCTIONS = {
    "concat": "cat", "concatenate": "cat", "multiply": "mul", "subtract": "sub", "divide": "div",
    "true_divide": "div", "negative": "neg", "absolute": "abs", "clip": "clamp", "fix": "trunc",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim", "arccos": "acos", "arccosh": "acosh",
    "arcsin": "asin", "arcsinh": "asinh", "arctan": "atan", "arctanh": "atanh", "arctan2": "atan2", "greater": "gt",
    "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "linalg_matmul": "matmul",
    "special_expit": "sigmoid", "special_softmax": "softmax", "special_log_softmax": "log_softmax",
}  # fmt: skip
"""Another name of a function -> torch's first name."""

_STACKS = {"hstack": 1, "column_stack": 1, "vstack": 0, "row_stack": 0, "dstack": 2}
"""Function -> the dimension along which it is `torch.cat`, for tensors that have this dimension."""

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""The target of a node, its positional arguments and its named arguments."""


def canonical(
    kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape_of: Callable[[Any], Any]
) -> Call:
    """Returns a call under torch's first names.

    Args:
        kind: The kind of the node; only calls of functions and methods have other names.
        target: The function or the name of the method.
        args: The positional arguments.
        kwargs: The named arguments.
        shape_of: Returns the shape of an argument, or None where it is no tensor.

    Returns:
        The target, the positional arguments and the named arguments.
    """
    name = target if kind == "call_method" else getattr(target, "__name__", "")
    # Methods that write in place have the name with a trailing underscore.
    stem = str(name).rstrip("_")
    if stem == "squeeze" and len(args) == 1 and not kwargs and _is_torchs(kind, target, args, shape_of):
        return target, (*args, tuple(d for d, size in enumerate(shape_of(args[0]) or ()) if size == 1)), kwargs
    has_other_name = stem in _FUNCTIONS or stem in _STACKS or _ARGUMENTS.keys() & kwargs
    if not has_other_name or not hasattr(torch.ops.aten, name):
        return target, args, kwargs
    if not _is_torchs(kind, target, args, shape_of):
        return target, args, kwargs
    if stem in _STACKS:
        return _concatenation(_STACKS[stem], (target, args, kwargs), shape_of)
    kwargs = {_argument(name, argument): value for argument, value in kwargs.items()}
    if stem in _FUNCTIONS:
        first = _FUNCTIONS[stem] + name[len(stem) :]
        target = first if kind == "call_method" else getattr(torch, first, target)
    return target, args, kwargs


def _is_torchs(kind: str, target: Any, args: tuple[Any, ...], shape_of: Callable[[Any], Any]) -> bool:
    """Returns whether a call is one of a tensor's method or of one of torch's built-in functions."""
    if kind == "call_method":
        return bool(args) and shape_of(args[0]) is not None
    return kind == "call_function" and isinstance(target, types.BuiltinFunctionType)


def _concatenation(dim: int, call: Call, shape_of: Callable[[Any], Any]) -> Call:
    """Returns a call that stacks tensors as a concatenation along `dim`, if the tensors have this dimension."""
    _, args, kwargs = call
    tensors = args[0] if args else kwargs["tensors"]
    has_dim = isinstance(tensors, list | tuple) and len(shape_of(tensors[0]) or ()) > dim
    return (torch.cat, (tensors, dim), {}) if has_dim else call


@functools.cache
def _argument(function: str, name: str) -> str:
    """Returns torch's first name of an argument, unless the function really has an argument of the given name."""
    packet = getattr(torch.ops.aten, function)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    names = {argument.name for schema in schemas for argument in schema.arguments}
    # `transpose` and `swapaxes` are one operator, so the schema has both spellings of these two.
    if name in names and name not in ("axis0", "axis1"):
        return name
    return _ARGUMENTS.get(name, name)
