"""What a network costs besides its multiplications: data that is moved, and operators that are started."""

import math
import operator

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata
from torch.nn import functional as F

from gate2static.gates.shapes import quiet

_STARTED = 60_000
"""Elements that a CPU core moves while an operator is started: 4 µs at 15 G/s, fitted on ten ResNets-18."""


def movement_cost(network: fx.GraphModule, examples: tuple[Tensor, ...]) -> int:
    """Elements read and written by one sample's run, with what starting an operator is worth.

    Layers count nothing: however a plan is lowered, they have the same multiplications. Nor does an activation or
    addition right behind a layer that nobody else reads: backends compute it with the layer.
    """
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        ShapeProp(network, fake_mode=mode).propagate(*(x[:1] for x in examples))
    cost, written = 0, set[fx.Node]()
    for node in network.graph.nodes:
        if node.op not in ("call_function", "call_method", "call_module"):
            continue
        layer = node.op == "call_module" and any(True for _ in network.get_submodule(node.target).parameters())
        follows = any(n in written and len(n.users) == 1 for n in node.all_input_nodes)
        if layer or (follows and _is_elementwise(node, network)):
            written.add(node)
        else:
            cost += _STARTED + _elements(node) + sum(_elements(n) for n in node.all_input_nodes)
    return cost


def _is_elementwise(node: fx.Node, network: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))).__module__ == nn.ReLU.__module__
    return node.target in (operator.add, torch.add, operator.mul, torch.mul, F.relu, torch.relu)


def _elements(node: fx.Node) -> int:
    found = node.meta.get("tensor_meta")
    return math.prod(found.shape) if isinstance(found, TensorMetadata) else 0
