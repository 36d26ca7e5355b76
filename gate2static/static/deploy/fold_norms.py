"""Folding for deployment: norms into the layers before them, and everything that depends on weights alone.

Computed in float64 and rounded once. Pruning itself does not fold, so that its weights are slices of the trained ones,
bit for bit, and equality can be checked in float64.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gate2static.graphs import function_of
from gate2static.static.aten import CONVOLUTIONS
from gate2static.static.capture import constant, store
from gate2static.static.deploy.moves_as_convolutions import convolve_moves
from gate2static.static.deploy.token_moves_as_rows import channels_first

_aten = torch.ops.aten
_TRANSPOSED = {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}


def fold(
    network: fx.GraphModule, examples: tuple[Tensor, ...] = (), *, convolve: bool = False, first: bool = False
) -> fx.GraphModule:
    """A copy of a captured network with constants and norms folded.

    Args:
        network: not changed.
        examples: its inputs, for what follows.
        convolve: move channels by convolutions (`convolve_moves`).
        first: move channels that come last as rows (`channels_first`).
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(network.graph, copied)
    graph.output(result)
    folded = fx.GraphModule(network, graph, "StaticNetwork")
    for node in list(folded.graph.nodes):
        if node.op == "call_function":
            if node.target is _aten.batch_norm.default:
                _fold_norm(folded, node)
            elif node.all_input_nodes and all(n.op == "get_attr" for n in node.all_input_nodes):
                _fold_constant(folded, node)
    folded.graph.eliminate_dead_code()
    folded.delete_all_unused_submodules()
    if convolve:
        convolve_moves(folded, examples)
    if first:
        channels_first(folded, examples)
    return _renumbered(folded)


def _fold_constant(network: fx.GraphModule, node: fx.Node) -> None:
    inputs = {n: constant(network, n) for n in node.all_input_nodes}
    wide = {n: _widened(v) for n, v in inputs.items()}
    args, kwargs = fx.map_arg(node.args, wide.__getitem__), fx.map_arg(node.kwargs, wide.__getitem__)
    value = function_of(node)(*args, **kwargs)
    if isinstance(value, Tensor):
        real = next((v.dtype.to_real() for v in inputs.values() if _is_inexact(v)), None)
        if real is not None and _is_inexact(value):
            value = value.to(real.to_complex() if value.is_complex() else real)
        _replace(network, node, value)


def _is_inexact(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _widened(value: Tensor) -> Tensor:
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _fold_norm(network: fx.GraphModule, norm: fx.Node) -> None:
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or len(layer.users) != 1 or layer.op != "call_function":
        return
    plain, transposed = layer.target in CONVOLUTIONS.values(), layer.target in _TRANSPOSED
    grouped = transposed and layer.args[6:7] not in ((), (1,))
    if not (plain or transposed) or grouped:
        return
    statistics = (*layer.args[1:3], *norm.args[1:5])
    stored = all(a is None or (isinstance(a, fx.Node) and a.op == "get_attr") for a in statistics)
    if not stored or norm.args[3] is None or norm.args[5]:
        return
    args: list[Any] = list(layer.args) + [None] * (3 - len(layer.args))
    weight, bias = _double(network, args[1]), _double(network, args[2])
    scale, shift, mean, variance = (_double(network, a) for a in norm.args[1:5])
    assert weight is not None
    assert mean is not None
    assert variance is not None
    eps: Any = norm.args[7]
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, eps, scale, shift, transpose=transposed)
    dtype = constant(network, args[1]).dtype
    with network.graph.inserting_before(layer):
        args[1], args[2] = (network.graph.get_attr(store(network, value.to(dtype), trained=True)) for value in fused)
    layer.args = tuple(args)
    norm.replace_all_uses_with(layer)
    network.graph.erase_node(norm)


def _replace(network: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    with network.graph.inserting_before(node):
        constant = network.graph.get_attr(store(network, value, trained=value.is_floating_point()))
    node.replace_all_uses_with(constant)
    network.graph.erase_node(node)


def _renumbered(network: fx.GraphModule) -> fx.GraphModule:
    """Only the tensors still in use, each once, numbered in the order of use."""
    root, graph = torch.nn.Module(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    names: dict[str, str] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            if name not in names:
                trained = name in network._parameters
                names[name] = store(root, getattr(network, name), trained=trained)
            copied[node] = graph.get_attr(names[name])
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    return fx.GraphModule(root, graph, "StaticNetwork")


def _double(network: fx.GraphModule, node: Any) -> Tensor | None:
    return None if node is None else constant(network, node).double()
