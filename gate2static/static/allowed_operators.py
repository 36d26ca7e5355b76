"""The operators that a static network may have: those of torch's `aten` set that only compute, and arithmetic on sizes.

An operator only computes if it returns something and changes nothing. Of those, the ones that read files, expose unset
memory or trust indices are refused by name, and so are internal ones but for a few.
"""

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from gate2static.errors import PruneError

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
_REFUSED_OPERATORS = re.compile(
    "^_|from_file|empty|sparse|quantize|fake_quant|nested|as_strided|unsafe|resize|set_|data_ptr|coo|csr"
)
"""Internal operators, and those that read files, expose unset memory, or trust indices without checking them."""
_INTERNAL_OPERATORS = {
    "_to_copy",
    "_unsafe_view",
    "_softmax",
    "_log_softmax",
    "_adaptive_avg_pool2d",
    "_native_multi_head_attention",
    "_weight_norm",
    "_weight_norm_interface",
    "_transformer_encoder_layer_fwd",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
}
"""Operators that are allowed although `_REFUSED_OPERATORS` matches them."""


def allowed_operator(name: str) -> Callable[..., Any]:
    """Finds an allowed operator.

    Args:
        name: The name in the file, such as "aten.add.Tensor" or "operator.mul".

    Raises:
        ValueError: An operator that is not allowed.
        AttributeError: An operator that torch does not have.
    """
    if name in _SIZE_ARITHMETIC:
        return _SIZE_ARITHMETIC[name]
    match = re.fullmatch(r"aten\.(\w+)\.(\w+)", name)
    if match is None:
        raise ValueError(f"operator {name!r} is not allowed")
    # A refused name never reaches torch.
    packet_name, overload_name = match.groups()
    if packet_name not in _INTERNAL_OPERATORS and _REFUSED_OPERATORS.search(packet_name):
        raise ValueError(f"operator {name!r} is not allowed")
    packet = getattr(torch.ops.aten, packet_name)
    overload = getattr(packet, overload_name)
    if not isinstance(overload, torch._ops.OpOverload) or not _only_computes(overload):
        raise ValueError(f"operator {name!r} is not allowed")
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
        except (ValueError, AttributeError) as error:
            raise PruneError(f"the static network uses the operator {name}, which cannot be saved safely.") from error
        return name
    name = f"operator.{getattr(node.target, '__name__', '')}"
    if name not in _SIZE_ARITHMETIC:
        raise PruneError(f"the static network uses {node.target}, which cannot be saved safely.")
    return name


def _only_computes(overload: torch._ops.OpOverload) -> bool:
    """Returns whether an operator returns something and changes nothing.

    The actions of TorchScript's interpreter, such as `aten.save` and `aten.warn`, lie outside the dispatcher.
    """
    is_known = torch._C._dispatch_has_kernel(overload.name())
    return is_known and bool(overload._schema.returns) and not overload._schema.is_mutable
