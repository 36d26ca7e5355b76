"""Permuted dimensions in a captured network: composed, and out of the way of what picks."""

from typing import Any

import torch
from torch import fx

from gate2static.graphs import function_of
from gate2static.static.aten import shape_of

_aten = torch.ops.aten
PERMUTATIONS = {_aten.permute.default, _aten.movedim.int, _aten.transpose.int}


def compose_permutations(network: fx.GraphModule) -> None:
    """Permutations of permutations become one `permute`, or none, in an annotated network, in place."""
    for node in network.graph.nodes:
        if not _is_permutation(node):
            continue
        order, source = _order(node), node.args[0]
        while _is_permutation(source):
            order, source = [_order(source)[dim] for dim in order], source.args[0]
        if order == sorted(order):
            node.replace_all_uses_with(source)
        else:
            node.target, node.args = _aten.permute.default, (source, order)
    network.graph.eliminate_dead_code()


def pick_before_permuting(network: fx.GraphModule) -> None:
    """What is picked from a permuted value is picked from the value, in place; it stays annotated."""
    for node in network.graph.find_nodes(op="call_function", target=_aten.index_select.default):
        source: Any = node.args[0] if len(node.args) == len(("self", "dim", "index")) else node
        if source.target is _aten.permute.default and _is_permutation(source):
            value, order = source.args
            with network.graph.inserting_before(node):
                args = (value, order[node.args[1]], node.args[2])
                picked = network.graph.call_function(_aten.index_select.default, args)
            shape = shape_of(node) or ()
            picked.meta["tensor_meta"] = node.meta["tensor_meta"]._replace(
                shape=torch.Size(shape[order.index(dim)] for dim in range(len(order)))
            )
            node.target, node.args = _aten.permute.default, (picked, order)
    network.graph.eliminate_dead_code()


def _is_permutation(node: fx.Node) -> bool:
    return node.target in PERMUTATIONS and not node.kwargs


def _order(node: fx.Node) -> list[int]:
    """Which dimension of its operand each dimension of a permutation's result is."""
    given: Any = node.args[1:]
    ndim = len(given[0]) if node.target is _aten.permute.default else len(shape_of(node) or ())
    sizes = torch.empty(tuple(range(2, 2 + ndim)), device="meta")
    return [size - 2 for size in function_of(node)(sizes, *given).shape]
