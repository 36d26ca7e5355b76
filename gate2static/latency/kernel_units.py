"""What the time of an operator depends on: its kind, and the numbers to look up in a table."""

import math
from dataclasses import dataclass

from gate2static.latency.operators import Operator

_MOVES = {
    "cat": "concat",
    "stack": "concat",
    "slice": "slice",
    "select": "slice",
    "split": "slice",
    "split_with_sizes": "slice",
    "unbind": "slice",
    "index": "gather",
    "index_select": "gather",
    "gather": "gather",
}
_KINDS = {
    "permute": "transpose",
    "transpose": "transpose",
    "t": "transpose",
    "clone": "copy",
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "native_layer_norm": "norm",
    "native_group_norm": "norm",
    "native_batch_norm": "norm",
    "_native_batch_norm_legit_no_training": "norm",
    "_adaptive_avg_pool2d": "pool",
    "avg_pool2d": "pool",
    "max_pool2d_with_indices": "pool",
    "mean": "reduce",
    "sum": "reduce",
    "amax": "reduce",
    "relu": "relu",
    "hardtanh": "relu",
    "clamp": "relu",
    "clamp_min": "relu",
    "leaky_relu": "relu",
    "add": "add",
    "sub": "add",
    "mul": "multiply",
    "gelu": "gelu",
    "sigmoid": "sigmoid",
    "tanh": "sigmoid",
    "exp": "sigmoid",
    "silu": "silu",
    "mish": "silu",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
}
PRODUCTS = frozenset({"addmm", "mm", "bmm", "baddbmm"})
ANY = "add"
"""What an operator that is not listed counts as: one pass over its operands."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """An operator as a table sees it.

    Attributes:
        kind: such as "convolution 3×3/2", "linear", "concat".
        sizes: what its time grows with. Of a convolution: output positions (with the batch), input channels, output
            channels; of a depth-wise one: positions, channels; of a matrix product: products, rows, inner size,
            columns; of a linear layer the same without products; of what copies pieces: the pieces, and the bytes of
            each; of everything else: the bytes that it reads and writes.
    """

    kind: str
    sizes: tuple[int, ...]


def unit_of(operator: Operator) -> Unit:
    """The unit that an operator is an instance of."""
    if operator.name == "convolution":
        return _convolution(operator)
    if operator.name in PRODUCTS:
        return _product(operator)
    if operator.name in _MOVES:
        return Unit(kind=_MOVES[operator.name], sizes=_pieces(operator))
    return Unit(kind=_KINDS.get(operator.name, ANY), sizes=(max(1, operator.size_bytes),))


def _convolution(operator: Operator) -> Unit:
    source, weight, result = operator.inputs[0].shape, operator.inputs[1].shape, operator.outputs[0].shape
    groups, transposed, strides = (operator.arguments[name] for name in ("groups", "transposed", "stride"))
    window = "×".join(map(str, weight[2:])) + "/" + "×".join(map(str, sorted(set(strides))))
    counted = source if transposed else result
    positions = counted[0] * math.prod(counted[2:])
    name = "transposed convolution" if transposed else "convolution"
    if groups == source[1] == result[1]:  # one channel, too: what gates may leave of a depth-wise layer
        return Unit(kind=f"depth-wise {name} {window}", sizes=(positions, groups))
    return Unit(kind=f"{name} {window}", sizes=(positions * groups, source[1] // groups, result[1] // groups))


def _product(operator: Operator) -> Unit:
    left, right = operator.inputs[-2], operator.inputs[-1]
    products = left.shape[0] if len(left.shape) == 3 else 1
    rows, inner, columns = *left.shape[-2:], right.shape[-1]
    if right.is_constant and products == 1:
        return Unit(kind="linear", sizes=(rows, inner, columns))
    return Unit(kind="matmul", sizes=(products, rows, inner, columns))


def _pieces(operator: Operator) -> tuple[int, int]:
    """How many stretches of memory are copied, and the bytes of each, on average."""
    largest = max((value for value in operator.outputs), key=lambda value: value.size_bytes)
    moved = sum(value.size_bytes for value in operator.outputs)
    dim = operator.arguments.get("dim", 0) % max(1, len(largest.shape))
    if operator.name == "index":
        dim = len(largest.shape) - 1
    outer, kind = math.prod(largest.shape[:dim]), _MOVES[operator.name]
    if kind == "gather":
        pieces = outer * largest.shape[dim]
    else:
        pieces = outer * (len(operator.inputs) if kind == "concat" else len(operator.outputs))
    return max(1, pieces), max(1, moved // max(1, pieces))
