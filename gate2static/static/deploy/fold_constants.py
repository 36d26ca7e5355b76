"""Constants folded: what depends on stored tensors alone is computed once.

    f(stored, …) -> stored        computed in float64, and rounded once to the precision of the inputs

Mixing weights become numbers, and a weight that is computed from parameters becomes one tensor.

Requires: nothing. Ensures: the same function, but for rounding; no operator reads stored tensors alone.
"""

import torch
from torch import Tensor, fx

from gate2static.graphs import function_of
from gate2static.static.capturing.capture import constant, store


def fold_constants(network: fx.GraphModule) -> bool:
    """Replaces operators whose inputs are all stored tensors by their results, in place.

    Args:
        network: A captured network.

    Returns:
        Whether there was one.
    """
    changed = False
    # In the order of the graph, so a result is stored before its readers are looked at.
    for node in list(network.graph.nodes):
        inputs = node.all_input_nodes
        is_constant = (
            node.op == "call_function"
            and bool(inputs)
            and all(source.op == "get_attr" for source in inputs)
        )
        if is_constant:
            changed |= _fold(network, node)
    return changed


def _fold(network: fx.GraphModule, node: fx.Node) -> bool:
    """Replaces an operator by its result.

    Args:
        network: The network, which gets the result.
        node: An operator whose inputs are all stored tensors.

    Returns:
        Whether it was replaced: not where the result is no single tensor.
    """
    inputs = {source: constant(network, source) for source in node.all_input_nodes}
    wide = {source: _widened(value) for source, value in inputs.items()}
    args = fx.map_arg(node.args, wide.__getitem__)
    kwargs = fx.map_arg(node.kwargs, wide.__getitem__)
    result = function_of(node)(*args, **kwargs)
    if not isinstance(result, Tensor):
        return False
    # The first inexact input says the precision; a complex one is as precise as its real part.
    precision = next((value.dtype.to_real() for value in inputs.values() if _is_inexact(value)), None)
    if precision is not None and _is_inexact(result):
        result = result.to(precision.to_complex() if result.is_complex() else precision)
    with network.graph.inserting_before(node):
        name = store(network, result, trained=result.is_floating_point())
        stored = network.graph.get_attr(name)
    node.replace_all_uses_with(stored)
    network.graph.erase_node(node)
    return True


def _is_inexact(value: Tensor) -> bool:
    """Returns whether a tensor holds real or complex numbers, which are rounded."""
    return value.is_floating_point() or value.is_complex()


def _widened(value: Tensor) -> Tensor:
    """Converts a tensor of rounded numbers to 64 bits per real number; returns others as they are."""
    if value.is_complex():
        return value.to(torch.complex128)
    if value.is_floating_point():
        return value.double()
    return value
