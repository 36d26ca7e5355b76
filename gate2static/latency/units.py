"""What the time of an operator depends on: its kind, and the numbers to look up in a table."""

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
    "permute": "transpose",
    "transpose": "transpose",
    "t": "transpose",
    "clone": "clone",
}
_OTHERS = {
    "_softmax": "softmax",
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
}
_CURVED = frozenset(
    {"gelu", "erf", "sigmoid", "tanh", "silu", "exp", "pow", "sqrt", "rsqrt", "div", "softplus", "mish"}
)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """An operator as a table sees it.

    Attributes:
        kind: such as "convolution 3×3/2", "linear", "concat".
        sizes: what its time grows with. Of a convolution: output positions (with the batch), input channels, output
            channels; of depth-wise ones positions and channels; of a matrix product the products, rows, inner size and
            columns; of everything else the bytes that it reads and writes.
    """

    kind: str
    sizes: tuple[int, ...]


def unit_of(operator: Operator) -> Unit:
    """The unit that an operator is an instance of."""
    if operator.name == "convolution":
        return _convolution(operator)
    if operator.name in ("addmm", "mm", "bmm", "baddbmm"):
        return _product(operator)
    kind = _MOVES.get(operator.name) or _OTHERS.get(operator.name)
    if kind is None:
        kind = "curved" if operator.name in _CURVED else "elementwise"
    return Unit(kind=kind, sizes=(operator.size_bytes,))


def _convolution(operator: Operator) -> Unit:
    weight, result, arguments = operator.inputs[1].shape, operator.outputs[0].shape, operator.arguments
    groups, transposed = arguments["groups"], arguments["transposed"]
    strides = arguments["stride"]
    window = "×".join(map(str, weight[2:])) + "/" + "×".join(map(str, sorted(set(strides))))
    positions = result[0]
    for size in (operator.inputs[0] if transposed else operator.outputs[0]).shape[2:]:
        positions *= size
    name = "transposed convolution" if transposed else "convolution"
    channels_in = operator.inputs[0].shape[1]
    if groups == 1:
        return Unit(kind=f"{name} {window}", sizes=(positions, channels_in, result[1]))
    if groups == channels_in == result[1]:
        return Unit(kind=f"depth-wise {name} {window}", sizes=(positions, channels_in))
    return Unit(kind=f"grouped {name} {window}", sizes=(positions * groups, channels_in // groups, result[1] // groups))


def _product(operator: Operator) -> Unit:
    left, right = operator.inputs[-2], operator.inputs[-1]
    if operator.name == "bmm":
        products, rows, inner = left.shape
        return Unit(kind="matmul", sizes=(products, rows, inner, right.shape[-1]))
    rows, inner = left.shape
    kind = "linear" if right.is_constant else "matmul"
    sizes = (rows, inner, right.shape[-1])
    return Unit(kind=kind, sizes=sizes if kind == "linear" else (1, *sizes))
