"""Networks that repeat one kernel: the time that one more copy adds is the kernel's own time."""

import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from gate2static.latency.kernel_kinds import Kernel
from gate2static.latency.kernels import REORDER
from gate2static.profiling.node_networks import KernelNetwork

MEAN = "mean over everything"
"""The last kernel of networks that would otherwise write large outputs; only profiling has this kind."""

_FLOAT_BYTES = 4
_ROW = 192
"""The width of rows that are normalised or go through a softmax."""
_GATHERED = 64
"""The channels that a gather picks from."""


def repeated(kernel: Kernel, copies: int) -> KernelNetwork:
    """Returns a network with copies of a kernel, in a chain or side by side; all else is equal for any number."""
    network = KernelNetwork()
    if match := re.fullmatch(r"(depth-wise )?(transposed )?convolution ([\d×]+)/(\d+)\D*.*", kernel.kind):
        _convolutions(network, kernel, copies, match)
    else:
        _BUILDERS.get(kernel.kind, _elementwise)(network, kernel, copies)
    return network


def _convolutions(network: KernelNetwork, kernel: Kernel, copies: int, match: re.Match[str]) -> None:
    positions, channels_in, channels_out = kernel.sizes if len(kernel.sizes) == 3 else (*kernel.sizes, kernel.sizes[-1])
    window = [int(size) for size in match[3].split("×")]
    stride = int(match[4])
    side = max(1, round(positions ** (1 / len(window))))
    scale = 1 if match[2] else stride
    x = network.input(1, channels_in, *[side * scale] * len(window))
    groups = channels_in if match[1] else 1
    shape = (channels_in, channels_out) if match[2] else (channels_out, channels_in // groups)
    for _ in range(copies):
        weight = network.weight(*shape, *window)
        bias = network.weight(channels_out)
        before = [(k - 1) // 2 for k in window]
        after = [k // 2 for k in window]
        padding = {} if match[2] else {"pads": [*before, *after]}
        operator = "ConvTranspose" if match[2] else "Conv"
        y = network.add(operator, x, weight, bias, strides=[stride] * len(window), group=groups, **padding)
        network.outputs.append(network.add("GlobalAveragePool", y))
    network.others = (Kernel(kind="reduce", sizes=(_FLOAT_BYTES * positions * channels_out,)),)


def _linear(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    rows, inner, columns = kernel.sizes
    x = network.input(1, rows, inner)
    for _ in range(copies):
        y = network.add("Add", network.add("MatMul", x, network.weight(inner, columns)), network.weight(columns))
        _reduce_to_output(network, y)
    network.others = (Kernel(kind=MEAN, sizes=(_FLOAT_BYTES * rows * columns,)),)


def _matmul(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    products, rows, inner, columns = kernel.sizes
    x = network.input(1, products, rows, inner)
    for _ in range(copies):
        _reduce_to_output(network, network.add("MatMul", x, network.input(1, products, inner, columns)))
    network.others = (Kernel(kind=MEAN, sizes=(_FLOAT_BYTES * products * rows * columns,)),)


def _reduce(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    for _ in range(copies):
        side = _side(kernel.sizes[0] / _FLOAT_BYTES / 16)
        network.outputs.append(network.add("GlobalAveragePool", network.input(1, 16, side, side)))


def _mean(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    for _ in range(copies):
        _reduce_to_output(network, network.input(1, max(1, kernel.sizes[0] // _FLOAT_BYTES)))


def _reduce_to_output(network: KernelNetwork, y: str) -> None:
    network.outputs.append(network.add("ReduceMean", y, keepdims=0))


def _chain(network: KernelNetwork, x: str, copies: int, link: Callable[[str], str]) -> None:
    y = x
    for _ in range(copies):
        y = link(y)
    network.outputs.append(y)


def _elementwise(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    operands = 3 if kernel.kind in ("add", "multiply") else 2
    elements = max(1, kernel.sizes[0] // (_FLOAT_BYTES * operands))
    x = network.input(1, elements)
    second = network.input(1, elements) if operands == 3 else None

    def link(y: str) -> str:
        if kernel.kind == "silu":
            return network.add("Mul", y, network.add("Sigmoid", y))
        operator = {"add": "Add", "multiply": "Mul"}.get(kernel.kind) or _ONNX_NAMES[kernel.kind]
        attributes = {"alpha": 1 / 6} if kernel.kind == "hardsigmoid" else {}  # as torch defines it
        return network.add(operator, y, *([second] if second else []), **attributes)

    _chain(network, x, copies, link)


def _rows(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    rows = max(1, kernel.sizes[0] // (2 * _FLOAT_BYTES * _ROW))
    x = network.input(1, rows, _ROW)

    def link(y: str) -> str:
        if kernel.kind == "softmax":
            return network.add("Softmax", y, axis=-1)
        return network.add("LayerNormalization", y, network.weight(_ROW), network.weight(_ROW), axis=-1)

    _chain(network, x, copies, link)


def _pool(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    side = _side(kernel.sizes[0] / (2 * _FLOAT_BYTES) / 16)
    x = network.input(1, 16, side, side)
    _chain(
        network,
        x,
        copies,
        lambda y: network.add("MaxPool", y, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    )


def _reorder(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    """Alternates pooling, which works on blocks, and a sign change, which does not: each needs a reorder."""
    elements = kernel.sizes[0] / (2 * _FLOAT_BYTES)
    side = _side(elements / 64)
    x = network.input(1, 64, side, side)

    def link(y: str) -> str:
        return network.add("MaxPool", network.add("Neg", y), kernel_shape=[1, 1], strides=[1, 1])

    _chain(network, x, copies, link)
    size = 2 * _FLOAT_BYTES * 64 * side * side
    network.others = (Kernel(kind="relu", sizes=(size,)), Kernel(kind="relu", sizes=(size,)))


def _transpose(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    """Flattens after each transpose, because optimisers push transposes through other operators."""
    rows = max(1, kernel.sizes[0] // (2 * _FLOAT_BYTES * _ROW))
    flat = network.constant(np.array([1, -1], dtype=np.int64))
    for _ in range(copies):
        y = network.add("Transpose", network.input(1, rows, 3, _ROW // 3), perm=[0, 2, 1, 3])
        _reduce_to_output(network, network.add("Reshape", y, flat))
    network.others = (Kernel(kind=MEAN, sizes=(_FLOAT_BYTES * rows * _ROW,)),)


def _gather(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    pieces, size = kernel.sizes
    picked = min(_GATHERED, pieces)
    x = network.input(1, max(1, pieces // picked), picked, max(1, size // _FLOAT_BYTES))
    generator = np.random.default_rng(0)

    def link(y: str) -> str:
        return network.add("Gather", y, network.constant(generator.permutation(picked)), axis=2)

    _chain(network, x, copies, link)


def _slice(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    """Chains slices that each leave out one element."""
    pieces, size = kernel.sizes
    width = max(1, size // _FLOAT_BYTES)
    x = network.input(1, pieces, width + copies)

    def link(y: str) -> str:
        bounds = (network.constant(np.array([at], dtype=np.int64)) for at in (1, 2**31, 2))
        return network.add("Slice", y, *bounds)

    _chain(network, x, copies, link)


def _concat(network: KernelNetwork, kernel: Kernel, copies: int) -> None:
    """Chains concatenations of two halves, one of which is a slice of the previous result."""
    pieces, size = kernel.sizes
    rows = max(1, pieces // 2)
    width = max(1, size // _FLOAT_BYTES)
    x = network.input(1, rows, 2 * width)
    other = network.input(1, rows, width)
    zero, half, axis = (network.constant(np.array([at], dtype=np.int64)) for at in (0, width, 2))
    _chain(
        network,
        x,
        copies,
        lambda y: network.add("Concat", network.add("Slice", y, zero, half, axis), other, axis=2),
    )
    network.others = (Kernel(kind="slice", sizes=(rows, width * _FLOAT_BYTES)),)


def _side(positions: float) -> int:
    return max(1, round(math.sqrt(positions)))


_BUILDERS: Mapping[str, Callable[[KernelNetwork, Kernel, int], None]] = {
    "linear": _linear,
    "matmul": _matmul,
    "reduce": _reduce,
    MEAN: _mean,
    "softmax": _rows,
    "norm": _rows,
    "pool": _pool,
    "transpose": _transpose,
    "gather": _gather,
    "slice": _slice,
    "concat": _concat,
    REORDER: _reorder,
}
_ONNX_NAMES = {
    "relu": "Relu",
    "gelu": "Gelu",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "copy": "Identity",
}
