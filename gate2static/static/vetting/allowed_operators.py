"""The operators that a static network may have: those of `operator_table`, and arithmetic on sizes."""

import operator
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import fx

from gate2static.errors import PruneError
from gate2static.static.vetting.operator_table import OPERATORS

_SIZE_ARITHMETIC: dict[str, Callable[..., Any]] = {
    f"operator.{function.__name__}": function
    for function in (
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.mod,
        operator.neg,
        operator.getitem,
    )
}
"""Name in the file -> function."""


@cache
def allowed_operator(name: str) -> Callable[..., Any]:
    """Finds an allowed operator.

    Args:
        name: The name in the file, such as "aten.add.Tensor" or "operator.mul".

    Raises:
        ValueError: An operator that is not allowed, or that this version of torch does not have.
    """
    if name in _SIZE_ARITHMETIC:
        return _SIZE_ARITHMETIC[name]
    match = re.fullmatch(r"aten\.(\w+)\.(\w+)", name)
    # A name that is not in the table never reaches torch.
    if match is None or match[2] not in OPERATORS.get(match[1], "").split():
        raise ValueError(f"operator {name!r} is not allowed")
    overload = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(overload, torch._ops.OpOverload):
        raise ValueError(f"torch {torch.__version__} has no operator {name!r}")
    return overload


def target_name(node: fx.Node) -> str:
    """Returns the name of what a node reads or calls, as a file has it.

    Raises:
        PruneError: An operator that could not be loaded again.
    """
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        name = str(node.target)
        try:
            allowed_operator(name)
        except ValueError as error:
            raise PruneError(
                f"the static network uses the operator {name}, which cannot be saved safely; "
                "compute it with other operators, or behind the heads."
            ) from error
        return name
    name = f"operator.{getattr(node.target, '__name__', '')}"
    if name not in _SIZE_ARITHMETIC:
        raise PruneError(f"the static network uses {node.target}, which cannot be saved safely.")
    return name
