"""The estimated cost of running a network on the CPU: its data traffic, its operators, its multiplications.

The unit is one number that is read or written. Per sample,

    cost = numbers read and written + NUMBERS_PER_START · operators + multiply-accumulates / MACS_PER_NUMBER

1. A layer hides its main input and its output behind its multiplications. So does an activation or an addition right
   behind it whose input nobody else reads: the backend computes it while the layer writes.
2. Any other operator is started, reads its inputs and writes its output. Numbers that are picked one by one take longer
   than numbers that are copied in a row; a reshape writes nothing.
3. ONNX Runtime and OpenVINO keep the tensors of convolutions in lanes, (N, C / 16, H, W, 16). A value that goes from
   lanes to the plain layout (N, C, H, W), or back, is read and written once more.

Requires: an annotated network (`aten.annotate`). Ensures: the network is not changed.
"""

import math
from typing import Any

import torch
from torch import fx

from gate2static.static.aten import CONVOLUTIONS, elements, shape_of

_aten = torch.ops.aten

NUMBERS_PER_START = 60_000
"""Numbers that a core moves while an operator is started: 4 µs at 15 G/s, fitted on ten ResNets-18."""
MACS_PER_NUMBER = 10
"""Multiply-accumulates in the time of one number read or written: 45 G/s against 0.2 ns, fitted on nine networks."""
LANES = 16
"""Channels that a backend keeps side by side in the tensors of convolutions, one per lane of its vectors."""

_COPIES_PER_PICK = 10
"""Numbers copied in a row in the time of one number that is picked alone."""
_SHORTEST_ROW = 8
"""How many numbers must lie side by side for a pick to copy them in a row."""

RESHAPES = {_aten.unflatten.int, _aten.flatten.using_ints}
"""Operators that only split or join dimensions, and move no data."""
_LAYERS = {
    *CONVOLUTIONS.values(),
    _aten.linear.default,
    _aten.matmul.default,
    _aten.bmm.default,
}
_FUSED = {
    _aten.relu.default,
    _aten.add.Tensor,
    _aten.hardsigmoid.default,
    _aten.sigmoid.default,
    _aten.tanh.default,
}
"""Operators that a backend computes while the layer before them writes."""
_LANE_BY_LANE = {
    *_FUSED,
    _aten.max_pool2d.default,
    _aten.avg_pool2d.default,
    _aten.adaptive_avg_pool2d.default,
}
"""Operators that take tensors in lanes as they are."""


def traffic_cost(network: fx.GraphModule) -> float:
    """Estimates the cost of one sample's run, in numbers read or written.

    Args:
        network: A deployed network, annotated.

    Raises:
        ValueError: The network is not annotated.
    """
    _check_annotated(network)
    cost = 0.0
    with_layer = set[fx.Node]()
    in_lanes = set[fx.Node]()
    reordered = set[tuple[fx.Node, bool]]()
    for node in network.graph.nodes:
        if node.op != "call_function" or not _has_tensors(node):
            continue
        inputs = [value for value in node.all_input_nodes if value.op != "get_attr" and _has_tensors(value)]
        if not inputs:
            continue  # made of parameters alone, such as a token for each sample: next to nothing
        # Case 1: a layer, or what is computed with it.
        if node.target in _LAYERS or _is_fused(node, inputs, with_layer):
            with_layer.add(node)
            cost += _multiplications(node) / MACS_PER_NUMBER + sum(elements(value) for value in inputs[1:])
        # Case 2: an operator of its own.
        else:
            cost += NUMBERS_PER_START + copy_cost(node) + sum(elements(value) for value in inputs)
        # Case 3: inputs in the other layout, each reordered once for all its readers.
        takes_lanes = _takes_lanes(node, inputs, in_lanes)
        if takes_lanes:
            in_lanes.add(node)
        for value in inputs:
            is_other = (value in in_lanes) != takes_lanes and value.op != "placeholder"
            if is_other and (value, takes_lanes) not in reordered:
                reordered.add((value, takes_lanes))
                cost += 2 * elements(value)
    return cost


def copy_cost(node: fx.Node) -> float:
    """Returns the cost of what an operator writes, in numbers copied in a row.

    Args:
        node: A node of an annotated network.
    """
    if node.target in RESHAPES:
        return 0
    if node.target is not _aten.index_select.default:
        return elements(node)
    dim: Any = node.args[1]
    # What lies behind the picked dimension is copied in a row.
    row = math.prod((shape_of(node) or ())[dim:][1:])
    if row < _SHORTEST_ROW:
        return elements(node) * _COPIES_PER_PICK
    return elements(node)


def _check_annotated(network: fx.GraphModule) -> None:
    """Refuses a network whose shapes are not known, which would seem to cost less.

    Raises:
        ValueError: A node that must have a tensor, and whose shape nobody noted.
    """
    for node in network.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        returns = [str(value.type) for value in schema.returns] if schema is not None else []
        must_have_tensors = node.op in ("placeholder", "get_attr") or any("Tensor" in kind for kind in returns)
        if must_have_tensors and not _has_tensors(node):
            raise ValueError(f"the shape of {node} is not known; annotate the network before its cost is estimated.")


def _has_tensors(node: fx.Node) -> bool:
    """Returns whether a node's value is a tensor, or holds tensors; sizes do not, and cost nothing."""
    return "tensor_meta" in node.meta


def _is_fused(node: fx.Node, inputs: list[fx.Node], with_layer: set[fx.Node]) -> bool:
    """Returns whether the backend computes an operator with the layer before it."""
    return node.target in _FUSED and any(value in with_layer and len(value.users) == 1 for value in inputs)


def _takes_lanes(node: fx.Node, inputs: list[fx.Node], in_lanes: set[fx.Node]) -> bool:
    """Returns whether an operator reads and writes tensors in lanes."""
    if node.target in CONVOLUTIONS.values():
        return True
    if node.target is _aten.cat.default:
        # Only whole lanes can be put side by side.
        return all(value in in_lanes and (shape_of(value) or (0, 1))[1] % LANES == 0 for value in inputs)
    return node.target in _LANE_BY_LANE and all(value in in_lanes for value in inputs)


def _multiplications(node: fx.Node) -> float:
    """Returns the multiply-accumulates of a convolution that fills its lanes; 0 for other operators.

    A depth-wise convolution takes as long as reading its input and writing its output.
    """
    if node.target not in CONVOLUTIONS.values():
        return 0.0
    # (channels out, channels in / groups, *kernel)
    weight = shape_of(node.args[1]) or ()  # type: ignore[arg-type]
    is_grouped = node.args[6:] not in ((), (1,))
    if is_grouped and weight[1] == 1:
        return 2 * MACS_PER_NUMBER * elements(node)
    return elements(node) * math.prod(weight[1:]) * math.ceil(weight[0] / LANES) * LANES / weight[0]
