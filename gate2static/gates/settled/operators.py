"""Operators that work channel by channel, so that settled gates let them run once for all streams."""

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

from gate2static.program.annotate import info
from gate2static.program.layer_kinds import layer_class

# fmt: off
_ACTIVATIONS = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
)
_POOLINGS: dict[type[nn.Module] | None, int] = {
    nn.MaxPool1d: 3, nn.AvgPool1d: 3, nn.AdaptiveAvgPool1d: 3, nn.AdaptiveMaxPool1d: 3,
    nn.MaxPool2d: 4, nn.AvgPool2d: 4, nn.AdaptiveAvgPool2d: 4, nn.AdaptiveMaxPool2d: 4,
    nn.MaxPool3d: 5, nn.AvgPool3d: 5, nn.AdaptiveAvgPool3d: 5, nn.AdaptiveMaxPool3d: 5,
}
_FUNCTIONS = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.softplus,
    torch.relu, torch.sigmoid, torch.tanh, operator.neg,
)
_METHODS = ("relu", "sigmoid", "tanh", "contiguous")
_ARITHMETIC = (operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul)
# fmt: on


def works_by_channel(branch: nn.Module, node: fx.Node, dims: set[int]) -> bool:
    """Whether a node treats every channel alike and apart from the others, without parameters or random numbers.

    Args:
        branch: owner of the modules that the node's graph calls.
        node: of the program, annotated.
        dims: the channel dimensions of its inputs.
    """
    shapes = {info(n).shape for n in node.all_input_nodes}
    same = shapes == {info(node).shape} and len(dims) == 1
    if node.op == "call_module":
        module = branch.get_submodule(str(node.target))
        kind = layer_class(module)
        pools = kind in _POOLINGS and not getattr(module, "return_indices", False)
        ndim = len(info(node).shape or ())
        return (same and kind in _ACTIVATIONS) or (pools and dims == {1} and ndim == _POOLINGS[kind])
    if node.op == "call_method":
        return same and node.target in _METHODS
    return same and node.target in (*_FUNCTIONS, *_ARITHMETIC)
