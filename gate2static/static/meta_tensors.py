"""Networks and operators on tensors without content: shapes and dtypes, without computing anything.

Such tensors lie on the meta device, and take a third of the time of fake tensors. What code says about devices is
translated on the way to an operator.
"""

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

META = torch.device("meta")
_aten = torch.ops.aten


def without_content(network: nn.Module) -> nn.Module:
    """Copies a network; the copy's parameters and buffers have shapes only. The copy of a graph module has no graph."""
    memo: dict[int, Any] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        shape = torch.empty_like(tensor, device=META)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(shape, requires_grad=tensor.requires_grad) if is_parameter else shape
    for module in network.modules():
        if type(module).__module__.startswith("torch.nn.modules") and not module._modules:
            memo[id(module)] = _with_tensors(module, memo)
    if not isinstance(network, fx.GraphModule):
        return copy.deepcopy(network, memo)
    # Copying a graph module writes its code again, which takes longer than copying all its modules.
    root = nn.Module()
    for kind in ("_parameters", "_buffers", "_modules"):
        setattr(root, kind, copy.deepcopy(getattr(network, kind), memo))
    return root


def _with_tensors(module: nn.Module, copies: Mapping[int, Any]) -> nn.Module:
    """Copies a layer of torch, which keeps nothing between calls but its tensors, so that the rest can be shared."""
    layer = copy.copy(module)
    for kind in ("_parameters", "_buffers"):
        held = getattr(module, kind)
        setattr(layer, kind, {name: copies.get(id(tensor), tensor) for name, tensor in held.items()})
    return layer


def run_without_content(operator: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Runs an operator on tensors without content.

    Args:
        operator: An operator that writes into no argument.
        args: Its positional arguments; tensors with content, and devices, stand for those without.
        kwargs: Its keyword arguments.

    Returns:
        What it returns, on the meta device.
    """
    operands: list[Tensor] = []

    def on_meta(value: Any) -> Any:
        if isinstance(value, Tensor):
            operands.append(value if value.device == META else torch.empty_like(value, device=META))
            return operands[-1]
        return META if isinstance(value, torch.device) else value

    args = map_aggregate(args, on_meta)
    named = dict(map_aggregate(dict(kwargs), on_meta))
    if not operands and any(argument.name == "device" for argument in operator._schema.arguments):
        named["device"] = META
    # Torch computes the shapes of these in Python, which takes a hundred times as long as making the tensor.
    if operator is _aten.cat.default and (shape := _concatenated(*args)) is not None:
        return operands[0].new_empty(shape)
    if operator in _LIKE_THE_INPUT:
        return torch.empty_like(operands[0])
    if operator is _aten.layer_norm.default:
        return operands[0].new_empty(operands[0].shape)
    return operator(*args, **named)


_LIKE_THE_INPUT = {_aten.batch_norm.default, _aten.hardswish.default}
"""Operators that return a tensor of their first operand's shape, dtype and strides."""


def _concatenated(tensors: list[Tensor], dim: int = 0) -> tuple[int, ...] | None:
    """The shape of tensors side by side, where they fit together as they are."""
    shape = list(tensors[0].shape)
    for x in tensors[1:]:
        if x.dim() != len(shape) or x.dtype is not tensors[0].dtype:
            return None
        if any(a != b for d, (a, b) in enumerate(zip(shape, x.shape, strict=True)) if d != dim % len(shape)):
            return None
        shape[dim] += x.shape[dim]
    return tuple(shape)
