"""Lets rectifiers of the network that settled gates leave write in place.

The full lift leaves its rectifiers alone, since hooks of its modules may hold on to what would be written over.
"""

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

from gate2static.gates.channel_gate import Gate
from gate2static.gates.lift import take
from gate2static.gates.settled.gate import SettledGate
from gate2static.gates.settled.layers import PickChannels
from gate2static.program.layer_kinds import has_own_forward


def rectify_in_place(network: fx.GraphModule) -> fx.GraphModule:
    """Lets rectifiers write into what gates and sums made for them alone, as backbones do.

    No gradient needs what a gate or a sum makes, and memory that is used again costs no fetching.

    Args:
        network: The network of settled gates, changed in place.

    Returns:
        The same network.
    """
    for node in network.graph.nodes:
        if not _is_rectifier(network, node):
            continue
        (source,) = node.all_input_nodes
        # What something else reads must not change.
        if len(source.users) == 1 and _is_fresh(network, source):
            node.op = "call_function"
            node.target = torch.relu_
            node.args = (source,)
            node.kwargs = {}
    network.recompile()
    return network


def _is_rectifier(network: fx.GraphModule, node: fx.Node) -> bool:
    """Returns whether a node is a ReLU: a call of the function, or of an unaltered layer."""
    return node.target in (torch.relu, F.relu) or type(_layer(network, node)) is nn.ReLU


def _is_fresh(network: fx.GraphModule, node: fx.Node) -> bool:
    """Returns whether a value lies in memory of its own that no gradient needs.

    That is what a sum, a gate or a pick of channels made. A gate that makes one tensor per stream is read by `take`.

    Args:
        network: The owner of the modules that the node's graph calls.
        node: The node of the value.
    """
    if node.target is operator.add:
        return True
    maker = _layer(network, node.args[0] if node.target is take else node)  # type: ignore[arg-type]
    return isinstance(maker, Gate | SettledGate | PickChannels)


def _layer(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Returns the module that a node calls.

    It is None for all other nodes, and for modules whose hooks or own forward may hold on to what they are given.
    """
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    if module is None or module._forward_hooks or module._forward_pre_hooks or has_own_forward(module):
        return None
    return module
