"""Helpers: the traced network as a module, and a gated model with one task."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.gates import GatedModel, gate
from gate2static.program.structures import tensors_of
from gate2static.program.tracing.trace import trace


class Pooled(nn.Module):
    """Mean over everything but the batch."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(1).mean(1, keepdim=True)


def traced(module: nn.Module, *inputs: Any) -> fx.GraphModule:
    """The trace of a module, in the module's mode, with what it returns put together."""
    root, graph = trace(module, inputs, "the network")
    output = next(iter(graph.find_nodes(op="output")))
    output.args = (output.meta["structure"].build(tensors_of(output.args[0])),)
    return fx.GraphModule(root, graph).train(module.training)


def called(network: fx.GraphModule) -> list[str]:
    """What the graph calls, in order: names of modules, methods and functions."""
    nodes = [n for n in network.graph.nodes if n.op.startswith("call")]
    return [str(getattr(n.target, "__name__", n.target)) for n in nodes]


def gated(module: nn.Module, *inputs: Any, tasks: tuple[str, ...] = ("a", "b"), **options: Any) -> GatedModel:
    """The module gated for tasks with heads that have no parameters."""
    heads = {task: Pooled() for task in tasks}
    return gate(module, tasks=tasks, example_inputs=inputs, heads=heads, **options)


def scramble(module: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value of its own."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module
