"""Constants folded: whatever depends on stored tensors alone is computed once, in float64, and rounded once."""

import torch
from torch import Tensor, fx

from gate2static.graphs import function_of
from gate2static.static.capture import constant, store


def fold_constants(network: fx.GraphModule) -> bool:
    """Replaces operators whose inputs are all stored tensors by their results, in place.

    Returns:
        Whether there was one.
    """
    changed = False
    for node in list(network.graph.nodes):
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and all(n.op == "get_attr" for n in inputs):
            changed |= _fold(network, node)
    return changed


def _fold(network: fx.GraphModule, node: fx.Node) -> bool:
    inputs = {n: constant(network, n) for n in node.all_input_nodes}
    wide = {n: _widened(value) for n, value in inputs.items()}
    args = fx.map_arg(node.args, wide.__getitem__)
    kwargs = fx.map_arg(node.kwargs, wide.__getitem__)
    value = function_of(node)(*args, **kwargs)
    if not isinstance(value, Tensor):
        return False
    real = next((v.dtype.to_real() for v in inputs.values() if _is_inexact(v)), None)
    if real is not None and _is_inexact(value):
        value = value.to(real.to_complex() if value.is_complex() else real)
    with network.graph.inserting_before(node):
        stored = network.graph.get_attr(store(network, value, trained=value.is_floating_point()))
    node.replace_all_uses_with(stored)
    network.graph.erase_node(node)
    return True


def _is_inexact(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _widened(value: Tensor) -> Tensor:
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value
