"""Permutations of dimensions: composed into one, and moved behind what picks channels.

1. permute(permute(x, p), q) = permute(x, p ∘ q), where (p ∘ q)[d] = p[q[d]]. The identity is left out.
2. index_select(permute(x, p), d, i) = permute(index_select(x, p[d], i), p): fewer channels are permuted.

Requires: an annotated network (`aten.annotate`). Ensures: the same function; the network stays annotated.
"""

from typing import Any

import torch
from torch import fx

from gate2static.graphs import function_of
from gate2static.static.aten import shape_of

_aten = torch.ops.aten
PERMUTATIONS = {
    _aten.permute.default,
    _aten.movedim.int,
    _aten.transpose.int,
}
"""Operators that only change the order of dimensions."""


def compose_permutations(network: fx.GraphModule) -> bool:
    """Rewrites permutations of permutations as one `permute`, or as nothing, in place (case 1).

    Args:
        network: An annotated network.

    Returns:
        Whether anything changed.
    """
    changed = False
    for node in network.graph.nodes:
        if not _is_permutation(node):
            continue
        source: Any = node.args[0]
        order = _order(node)
        while _is_permutation(source):
            inner = _order(source)
            order = [inner[dim] for dim in order]
            source = source.args[0]
        if order == sorted(order):
            node.replace_all_uses_with(source)
            changed = True
        elif node.target is not _aten.permute.default or node.args != (source, order):
            node.target = _aten.permute.default
            node.args = (source, order)
            changed = True
    # The inner permutations, where nothing else reads them.
    network.graph.eliminate_dead_code()
    return changed


def pick_before_permuting(network: fx.GraphModule) -> bool:
    """Picks from a value before it is permuted, in place (case 2).

    Args:
        network: An annotated network whose permutations are composed.

    Returns:
        Whether anything changed.
    """
    changed = False
    for node in network.graph.find_nodes(op="call_function", target=_aten.index_select.default):
        if len(node.args) != len(("self", "dim", "index")):
            continue
        permuted, dim, index = node.args
        if permuted.target is not _aten.permute.default or not _is_permutation(permuted):
            continue
        value, order = permuted.args
        with network.graph.inserting_before(node):
            picked = network.graph.call_function(
                _aten.index_select.default,
                (value, order[dim], index),
            )
        picked.meta["tensor_meta"] = node.meta["tensor_meta"]._replace(shape=_shape_before(node, order))
        # The node itself becomes the permutation, so its readers and its shape stay.
        node.target = _aten.permute.default
        node.args = (picked, order)
        changed = True
    network.graph.eliminate_dead_code()
    return changed


def _shape_before(node: fx.Node, order: list[int]) -> torch.Size:
    """Returns the shape that a value had before its dimensions were permuted.

    Args:
        node: The permuted value.
        order: The dimension of the value before, for each dimension of the permuted value.
    """
    shape = shape_of(node) or ()
    return torch.Size(shape[order.index(dim)] for dim in range(len(order)))


def _is_permutation(node: fx.Node) -> bool:
    return node.target in PERMUTATIONS and not node.kwargs


def _order(node: fx.Node) -> list[int]:
    """Finds the order of dimensions in which a permutation puts its operand.

    Args:
        node: Any of the `PERMUTATIONS`.

    Returns:
        The dimension of the operand, for each dimension of the result.
    """
    settings: Any = node.args[1:]
    is_permute = node.target is _aten.permute.default
    ndim = len(settings[0]) if is_permute else len(shape_of(node) or ())
    # The operator runs on a tensor whose dimension d has size 2 + d: the sizes of the result name its dimensions.
    sizes = torch.empty(tuple(range(2, 2 + ndim)), device="meta")
    permuted = function_of(node)(sizes, *settings)
    return [size - 2 for size in permuted.shape]
