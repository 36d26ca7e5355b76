"""Rectifiers of the network that settled gates leave write in place.

The full lift leaves them alone, since hooks of its modules may hold on to what is written over.
"""

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

from gate2static.gates.channel_gate import Gate
from gate2static.gates.lift import take
from gate2static.gates.settled.gate import SettledGate
from gate2static.gates.settled.layers import ReadRows
from gate2static.program.layer_kinds import has_own_forward


def rectify_in_place(network: fx.GraphModule) -> fx.GraphModule:
    """Let rectifiers write into what gates and sums made for them alone, as backbones do; returns the network.

    No gradient needs what a gate or a sum makes, and memory that is used again costs no fetching.
    """
    for node in network.graph.nodes:
        if node.target in (torch.relu, F.relu) or type(_layer(network, node)) is nn.ReLU:
            (source,) = node.all_input_nodes
            made_by = _layer(network, source.args[0] if source.target is take else source)
            fresh = source.target is operator.add or isinstance(made_by, Gate | SettledGate | ReadRows)
            if fresh and len(source.users) == 1:
                node.op, node.target, node.args, node.kwargs = "call_function", torch.relu_, (source,), {}
    network.recompile()
    return network


def _layer(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    altered = module is None or module._forward_hooks or module._forward_pre_hooks or has_own_forward(module)
    return None if altered else module
