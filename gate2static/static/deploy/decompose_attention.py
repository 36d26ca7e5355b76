"""Attention as its two products.

    attention(q, k, v) = softmax((q / √d) kᵀ) v        q, k, v: (…, L, d); ᵀ exchanges the last two dimensions

1. The products take permuted operands as they are, and permutations fold into them.
2. (A B)ᵀ = Bᵀ Aᵀ: a product that is only read transposed is computed transposed.

Backends for which attention is one operator are better off without these passes.

Requires: an annotated network (`aten.annotate`). Ensures: the same function; attention with a mask, dropout or a scale
of its own stays.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from gate2static.static.aten import shape_of

_aten = torch.ops.aten


def decompose_attention(network: fx.GraphModule) -> list[fx.Node]:
    """Writes plain attention as products, in place (case 1).

    Args:
        network: An annotated network.

    Returns:
        The second product of each attention, annotated; empty where nothing changed.
    """
    products = []
    attentions = network.graph.find_nodes(
        op="call_function",
        target=_aten.scaled_dot_product_attention.default,
    )
    for node in attentions:
        if not _is_plain(node):
            continue
        query, key, value = node.args
        shape = shape_of(query) or ()  # (…, L, d)
        scale = 1 / math.sqrt(shape[-1])
        with network.graph.inserting_before(node):
            # The query is scaled, not the logits: in half precision the logits could overflow.
            scaled = network.graph.call_function(_aten.mul.Tensor, (query, scale))
            logits = _product(scaled, _transposed(key, len(shape)))  # (…, L, L)
            weights = network.graph.call_function(_aten.softmax.int, (logits, -1))
            product = _product(weights, value)  # (…, L, d)
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        network.graph.erase_node(node)
        products.append(product)
    return products


def transpose_products(products: Iterable[fx.Node]) -> bool:
    """Computes products transposed that are only read transposed, in place (case 2).

    Args:
        products: Matrix products of one network, whose permutations are composed.

    Returns:
        Whether there was one.
    """
    changed = False
    for product in products:
        if len(product.users) != 1:
            continue
        reader = next(iter(product.users))
        if reader.target is not _aten.permute.default or reader.kwargs:
            continue
        order: Any = reader.args[1]
        ndim = len(order)
        if list(order) != _exchanged(ndim):
            continue
        left, right = product.args
        with reader.graph.inserting_before(reader):
            transposed = _product(_transposed(right, ndim), _transposed(left, ndim))
        reader.replace_all_uses_with(transposed)
        changed = True
    return changed


def _is_plain(attention: fx.Node) -> bool:
    """Returns whether attention is two products and a softmax, and nothing else.

    It has no options, its operands have equally many dimensions, and its queries are not empty.

    Args:
        attention: A node of an annotated network.
    """
    if attention.kwargs or len(attention.args) != len(("query", "key", "value")):
        return False
    shapes = [shape_of(source) or () for source in attention.all_input_nodes]
    ndims = {len(shape) for shape in shapes}
    return len(ndims) == 1 and 0 not in shapes[0]


def _product(left: Any, right: Any) -> fx.Node:
    """Writes the matrix product of two nodes, at the graph's insertion point."""
    product: fx.Node = left.graph.call_function(_aten.matmul.default, (left, right))
    return product


def _transposed(node: Any, ndim: int) -> fx.Node:
    """Writes a node of `ndim` dimensions with the last two exchanged, at the graph's insertion point."""
    transposed: fx.Node = node.graph.call_function(
        _aten.permute.default,
        (node, _exchanged(ndim)),
    )
    return transposed


def _exchanged(ndim: int) -> list[int]:
    """Returns the order of dimensions that exchanges the last two.

    Args:
        ndim: The number of dimensions, at least 2.
    """
    return [*range(ndim - 2), ndim - 1, ndim - 2]
