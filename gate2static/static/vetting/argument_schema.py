"""What arguments an operator may have: the types of torch's own schema, and bounds that hold for every network.

Torch takes an integer for an enumeration, and an unknown member of one ends the process. So every argument is compared
with the operator's schema while it still is what the file says.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx

from gate2static.messages import brief

MOST_ITEMS = 16_384
"""The longest list of arguments, such as the parts of a split or the operands of a concatenation."""
LARGEST_INTEGER = 2**31
"""The largest size, stride or position; `slice` also names the end of a dimension by torch's largest integers."""
_ENDS = frozenset({2**63 - 1, -(2**63), -(2**63) + 1})
DTYPES = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128,
})  # fmt: skip
"""The dtypes of tensors."""
_WORDS: Mapping[str, re.Pattern[str]] = {
    "UPLO": re.compile("L|U"),
    "approximate": re.compile("none|tanh"),
    "equation": re.compile(r"[A-Za-z,.> -]{1,100}"),
    "indexing": re.compile("ij|xy"),
    "interpolation": re.compile("linear|lower|higher|midpoint|nearest"),
    "mode": re.compile("constant|reflect|replicate|circular|reduced|complete|r|mean|sum|max"),
    "norm": re.compile("backward|forward|ortho"),
    "ord": re.compile("fro|nuc"),
    "padding": re.compile("same|valid"),
    "pad_mode": re.compile("constant|reflect|replicate|circular"),
    "reduce": re.compile("sum|prod|mean|amax|amin|add|multiply"),
    "rounding_mode": re.compile("trunc|floor"),
    "side": re.compile("left|right"),
}
"""Name of an argument that is text -> what it may say."""
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "dropout_p": (0.0,),
    "generator": (None,),
    "pin_memory": (None, False),
    "train": (False,),
}
"""Name of an argument -> its only values: a static network has no training mode and draws no random numbers."""
_SCALARS: Mapping[str, Callable[[Any], bool]] = {
    "TensorType": lambda value: _SCALARS["NumberType"](value),  # torch takes a number for some tensors
    "BoolType": lambda value: type(value) is bool,
    "IntType": lambda value: _is_integer(value),
    "SymIntType": lambda value: _is_integer(value),
    "FloatType": lambda value: type(value) is float or _is_integer(value),
    "NumberType": lambda value: type(value) in (bool, float) or (type(value) is int and abs(value) <= 2**63),
    "ScalarTypeType": lambda value: isinstance(value, torch.dtype) and value in DTYPES,
    "LayoutType": lambda value: value is torch.strided,
    "MemoryFormatType": lambda value: isinstance(value, torch.memory_format),
    "DeviceObjType": lambda value: isinstance(value, torch.device),
}
"""Kind of a type in torch's schema -> whether a value that is no node is of it."""


def check_arguments(operator: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuses arguments that do not fit an operator. A node fits wherever a tensor or a size may stand.

    Args:
        operator: An allowed operator, or arithmetic on sizes.
        args: Its positional arguments; references to other nodes are nodes.
        kwargs: Its arguments by name.

    Raises:
        ValueError: An argument is missing, unknown, of the wrong type or out of bounds.
    """
    if not isinstance(operator, torch._ops.OpOverload):
        _check_size_arithmetic(args, kwargs)
        return
    arguments = _arguments(operator)
    positional = [argument for argument in arguments.values() if not argument.kwarg_only]
    if len(args) > len(positional):
        raise ValueError(f"{len(args)} arguments for {operator}, which takes {len(positional)}")
    given = {argument.name: value for argument, value in zip(positional, args, strict=False)}
    # Names would become code.
    if unknown := sorted(set(kwargs) - set(arguments)):
        raise ValueError(f"argument names {unknown}")
    if twice := sorted(set(kwargs) & set(given)):
        raise ValueError(f"argument {twice[0]} is given twice")
    given.update(kwargs)
    for name, argument in arguments.items():
        if name in given:
            _check_argument(argument, given[name])
        elif not argument.has_default_value():
            raise ValueError(f"argument {name} of {operator} is missing")


def _check_argument(argument: Any, value: Any) -> None:
    allowed = _FIXED.get(argument.name)
    if allowed is not None and not (_is_plain(value) and value in allowed):
        raise ValueError(f"argument {argument.name} is {_short(value)}")
    if not _fits(argument.real_type, value, argument):
        raise ValueError(f"argument {argument.name} is {_short(value)}, not {argument.real_type}")


def _fits(kind: Any, value: Any, argument: Any) -> bool:
    """Returns whether a value is of a type of torch's schema."""
    name = kind.kind() if hasattr(kind, "kind") else str(kind)
    if name == "OptionalType":
        return value is None or _fits(kind.getElementType(), value, argument)
    if name == "ListType":
        element = kind.getElementType()
        if not isinstance(value, list | tuple):
            # Torch takes one number for a list of a known length.
            return argument.N is not None and _fits(element, value, argument)
        # A window has one size for all dimensions or one for each, and a stride may be left out.
        if (argument.N or 0) > 1 and len(value) not in (0, 1, argument.N):
            return False
        is_of_tensors = str(element) == "Tensor"
        if len(value) > MOST_ITEMS or (is_of_tensors and not all(isinstance(item, fx.Node) for item in value)):
            return False
        return all(_fits(element, item, argument) for item in value)
    if isinstance(value, fx.Node):
        return name in ("TensorType", "IntType", "SymIntType", "NumberType")
    if name == "StringType":
        word = _WORDS.get(argument.name)
        return isinstance(value, str) and word is not None and word.fullmatch(value) is not None
    return name in _SCALARS and _SCALARS[name](value)


def _check_size_arithmetic(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuses anything but nodes and bounded integers, so that neither text nor lists can grow."""
    if kwargs or not 1 <= len(args) <= 2:
        raise ValueError("argument names" if kwargs else f"{len(args)} arguments for arithmetic on sizes")
    for value in args:
        if not isinstance(value, fx.Node) and not _is_integer(value):
            raise ValueError(f"arithmetic on sizes with {_short(value)}")


@cache
def _arguments(operator: torch._ops.OpOverload) -> dict[str, Any]:
    return {argument.name: argument for argument in operator._schema.arguments}


def _is_integer(value: Any) -> bool:
    return type(value) is int and (abs(value) <= LARGEST_INTEGER or value in _ENDS)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _short(value: Any) -> str:
    return "a node" if isinstance(value, fx.Node) else brief(repr(value), 60)
