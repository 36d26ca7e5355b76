"""What running a network takes besides its layers' own multiplications: data that is moved, and operators started.

An estimate for backends on the CPU, in numbers read or written, by which the lowerings of a target are compared.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx

from gate2static.static.aten import CONVOLUTIONS, annotate, elements, shape_of

STARTED = 60_000
"""Numbers that a core moves while an operator is started: 4 µs at 15 G/s, fitted on ten ResNets-18."""
MACS = 10
"""Multiply-accumulates in the time of one number read or written: 45 G/s against 0.2 ns, fitted on nine networks."""
BLOCK = 16
"""Channels that backends keep together in layers' tensors."""

_ALONE = 10
"""Numbers copied in a row in the time of one that is picked alone."""
_TOGETHER = 8
"""How many picked side by side are copied in a row."""

_aten = torch.ops.aten
_LAYERS = {*CONVOLUTIONS.values(), _aten.linear.default, _aten.matmul.default, _aten.bmm.default}
RESHAPES = {_aten.unflatten.int, _aten.flatten.using_ints}
_FUSED = {_aten.relu.default, _aten.add.Tensor, _aten.hardsigmoid.default, _aten.sigmoid.default, _aten.tanh.default}
_IN_BLOCKS = {*_FUSED, _aten.max_pool2d.default, _aten.avg_pool2d.default, _aten.adaptive_avg_pool2d.default}
"""What works on tensors in blocks as they are."""


def traffic_cost(network: fx.GraphModule, examples: tuple[Tensor, ...]) -> float:
    """Numbers moved by one sample's run of a folded network, with what starting operators and multiplying is worth.

    Activations and additions right behind a layer that nobody else reads are computed with it. Convolutions keep
    their tensors in blocks of channels; what enters or leaves the blocks is read and written once more.
    """
    annotate(network, examples)
    cost, behind, in_blocks = 0.0, set[fx.Node](), set[fx.Node]()
    crossed: set[tuple[fx.Node, bool]] = set()
    for node in network.graph.nodes:
        # Sizes cost nothing, and next to nothing what is made of parameters alone, such as a token for each sample.
        inputs = [n for n in node.all_input_nodes if n.op != "get_attr" and "tensor_meta" in n.meta]
        if node.op != "call_function" or not inputs or "tensor_meta" not in node.meta:
            continue
        follows = node.target in _FUSED and any(n in behind and len(n.users) == 1 for n in inputs)
        if node.target in _LAYERS or follows:
            behind.add(node)
            cost += _multiplied(node) / MACS + sum(elements(n) for n in inputs[1:])
        else:
            cost += STARTED + copied(node) + sum(elements(n) for n in inputs)
        blocks = _is_in_blocks(node, inputs, in_blocks)
        if blocks:
            in_blocks.add(node)
        for value in inputs:
            if (value in in_blocks) != blocks and value.op != "placeholder" and (value, blocks) not in crossed:
                crossed.add((value, blocks))
                cost += 2 * elements(value)
    return cost


def copied(node: fx.Node) -> float:
    """Numbers that an operator writes, with what picking them one by one is worth; none where it reshapes."""
    if node.target in RESHAPES:
        return 0
    if node.target is not _aten.index_select.default:
        return elements(node)
    dim: Any = node.args[1]
    together = math.prod((shape_of(node) or ())[dim:][1:])
    return elements(node) * (_ALONE if together < _TOGETHER else 1)


def _is_in_blocks(node: fx.Node, inputs: list[fx.Node], in_blocks: set[fx.Node]) -> bool:
    if node.target is _aten.cat.default:
        return all(n in in_blocks and (shape_of(n) or (0, 1))[1] % BLOCK == 0 for n in inputs)
    return node.target in CONVOLUTIONS.values() or (node.target in _IN_BLOCKS and all(n in in_blocks for n in inputs))


def _multiplied(node: fx.Node) -> float:
    """Multiply-accumulates of a convolution, in whole blocks; a depth-wise one takes as long as reading and writing."""
    if node.target not in CONVOLUTIONS.values():
        return 0.0
    weight = shape_of(node.args[1]) or ()  # type: ignore[arg-type]
    if node.args[6:] not in ((), (1,)) and weight[1] == 1:
        return 2 * MACS * elements(node)
    return elements(node) * math.prod(weight[1:]) * math.ceil(weight[0] / BLOCK) * BLOCK / weight[0]
