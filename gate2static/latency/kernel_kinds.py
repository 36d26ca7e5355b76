"""Kernels: operators as a latency table sees them, by their kind and the sizes that their time depends on."""

import math
from dataclasses import dataclass

from gate2static.latency.operators import Operator

_COPY_KINDS = {
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
"""Operator -> the kind of kernel, for operators whose time depends on how many pieces of memory they copy."""

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
"""Operator -> the kind of kernel, for operators whose time depends on the bytes that they read and write."""

PRODUCTS = frozenset({"addmm", "mm", "bmm", "baddbmm"})
"""Operators that multiply matrices."""

ANY = "add"
"""The kind of an operator that is not listed: one pass over its operands."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """An operator as a table sees it.

    Attributes:
        kind: The kind, such as "convolution 3×3/2", "linear" or "concat".
        sizes: The numbers with which its time grows. Of a convolution: output positions (with the batch), input
            channels, output channels. Of a depth-wise convolution: positions, channels. Of a matrix product: products,
            rows, inner size, columns; of a linear layer the same without products. Of what copies pieces: the pieces,
            and the bytes of each. Of everything else: the bytes that it reads and writes.
    """

    kind: str
    sizes: tuple[int, ...]


def kernel_of(operator: Operator) -> Kernel:
    """Returns the kernel that an operator is an instance of."""
    if operator.name == "convolution":
        return _convolution(operator)
    if operator.name in PRODUCTS:
        return _product(operator)
    if operator.name in _COPY_KINDS:
        return Kernel(kind=_COPY_KINDS[operator.name], sizes=_pieces(operator))
    return Kernel(kind=_KINDS.get(operator.name, ANY), sizes=(max(1, operator.size_bytes),))


def _convolution(operator: Operator) -> Kernel:
    # (N, channels, *positions), and (channels, channels / groups, *window)
    source = operator.inputs[0].shape
    result = operator.outputs[0].shape
    weight = operator.inputs[1].shape
    groups = operator.arguments["groups"]
    is_transposed = operator.arguments["transposed"]
    strides = sorted(set(operator.arguments["stride"]))
    window = "×".join(map(str, weight[2:])) + "/" + "×".join(map(str, strides))
    # A transposed convolution does its arithmetic once per input position.
    counted = source if is_transposed else result
    positions = counted[0] * math.prod(counted[2:])
    name = "transposed convolution" if is_transposed else "convolution"
    # One channel counts too: gates may leave it of a depth-wise layer.
    if groups == source[1] == result[1]:
        return Kernel(kind=f"depth-wise {name} {window}", sizes=(positions, groups))
    # Groups work on positions of their own, as far as the arithmetic is concerned.
    return Kernel(kind=f"{name} {window}", sizes=(positions * groups, source[1] // groups, result[1] // groups))


def _product(operator: Operator) -> Kernel:
    # (products, rows, inner) or (rows, inner), and (…, inner, columns); a bias comes first.
    left, right = operator.inputs[-2:]
    products = left.shape[0] if len(left.shape) == 3 else 1
    rows, inner = left.shape[-2:]
    columns = right.shape[-1]
    if right.is_constant and products == 1:
        return Kernel(kind="linear", sizes=(rows, inner, columns))
    return Kernel(kind="matmul", sizes=(products, rows, inner, columns))


def _pieces(operator: Operator) -> tuple[int, int]:
    """Returns how many stretches of memory an operator copies, and the bytes of each on average."""
    largest = max(operator.outputs, key=lambda value: value.size_bytes)
    copied_bytes = sum(value.size_bytes for value in operator.outputs)
    ndim = len(largest.shape)
    # Indexing has no argument `dim`; channels are picked along the last dimension.
    dim = ndim - 1 if operator.name == "index" else operator.arguments.get("dim", 0) % max(1, ndim)
    outer = math.prod(largest.shape[:dim])
    kind = _COPY_KINDS[operator.name]
    if kind == "gather":
        pieces = outer * largest.shape[dim]
    elif kind == "concat":
        pieces = outer * len(operator.inputs)
    else:
        pieces = outer * len(operator.outputs)
    pieces = max(1, pieces)
    return pieces, max(1, copied_bytes // pieces)
