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
    """Copies a network; the copy's parameters and buffers have shapes only."""
    memo: dict[int, Any] = {}
    for tensor in chain(network.parameters(), network.buffers()):
        shape = torch.empty_like(tensor, device=META)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(shape, requires_grad=tensor.requires_grad) if is_parameter else shape
    # To copy every attribute of every layer, or to write the code of a graph anew, takes longer than all the rest.
    simple = [module for module in network.modules() if _keeps_only_tensors(module)]
    for module in simple:
        memo[id(module)] = object.__new__(type(module))
    for module in simple:
        tensors = {kind: copy.deepcopy(getattr(module, kind), memo) for kind in ("_parameters", "_buffers", "_modules")}
        vars(memo[id(module)]).update({**vars(module), **tensors})
    return copy.deepcopy(network, memo)


def _keeps_only_tensors(module: nn.Module) -> bool:
    """Returns whether a module keeps nothing from call to call but tensors: torch's own layers and graphs do so."""
    is_layer = type(module).__module__.startswith("torch.nn.modules") and not module._modules
    return is_layer or isinstance(module, fx.GraphModule)


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
    if operator is _aten.layer_norm.default:
        return operands[0].new_empty(operands[0].shape)
    # Dropout would return its operand itself, and who reads the one would read the other.
    if operator in _LIKE_ITS_OPERAND or (operator in _POINTWISE and _fit(operands, args)):
        return torch.empty_like(operands[0])
    if operator in _RECURRENT:
        return _run_recurrent(operator, args, named)
    return operator(*args, **named)


_POINTWISE = {
    _aten.add.Tensor,
    _aten.div.Tensor,
    _aten.gelu.default,
    _aten.hardsigmoid.default,
    _aten.hardswish.default,
    _aten.hardtanh.default,
    _aten.mul.Tensor,
    _aten.relu.default,
    _aten.sigmoid.default,
    _aten.silu.default,
    _aten.sub.Tensor,
    _aten.tanh.default,
}
"""Operators that return numbers of their operands' type, where that is one floating-point type."""

_LIKE_ITS_OPERAND = {_aten.batch_norm.default, _aten.dropout.default, _aten.feature_dropout.default}
"""Operators whose result looks like their first operand."""

_RECURRENT = {_aten.gru.input, _aten.lstm.input, _aten.rnn_relu.input, _aten.rnn_tanh.input}
"""Recurrent layers over one tensor of sequences."""


def _fit(operands: list[Tensor], args: tuple[Any, ...]) -> bool:
    """Returns whether a pointwise operator's result is certain to look like its first operand."""
    first = operands[0]
    if not first.is_floating_point() or any(isinstance(argument, complex) for argument in args):
        return False
    if len(operands) == 1:
        return True
    # The strides of others decide with those of the first.
    plain = all(x.dtype is first.dtype and x.is_contiguous() for x in operands)
    return plain and torch.broadcast_shapes(*(x.shape for x in operands)) == first.shape


def _concatenated(tensors: list[Tensor], dim: int = 0) -> tuple[int, ...] | None:
    """Returns the shape of contiguous tensors side by side; None where they do not fit together as they are."""
    first = tensors[0]
    if any(x.dim() != first.dim() or x.dtype is not first.dtype or not x.is_contiguous() for x in tensors):
        return None
    shapes = [[size for d, size in enumerate(x.shape) if d != dim % x.dim()] for x in tensors]
    if any(shape != shapes[0] for shape in shapes):
        return None
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return tuple(shape)


def _run_recurrent(operator: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Runs a recurrent layer over sequences of one step, which are as long as theirs afterwards.

    Every step takes the same operators, and torch would run them all: minutes for thousands of steps.
    """
    names = [argument.name for argument in operator._schema.arguments]
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    sequences: Tensor = named["input"]
    dim = 1 if named["batch_first"] and sequences.dim() == 3 else 0
    length = sequences.shape[dim]
    if length < 2:
        return operator(*args, **kwargs)
    outputs, *states = operator(**{**named, "input": sequences.narrow(dim, 0, 1)})
    # Torch lays the steps one behind the other, also where the batch comes first.
    first_step = outputs.movedim(dim, 0)
    return (first_step.new_empty((length, *first_step.shape[1:])).movedim(0, dim), *states)
