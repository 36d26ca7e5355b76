"""Attention as its two products, softmax((q / √d) kᵀ) v, so that what permutes operands and results folds into them.

Backends for which attention is one operator are better off without.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from gate2static.static.aten import shape_of

_aten = torch.ops.aten


def open_attention(network: fx.GraphModule) -> list[fx.Node]:
    """Write plain attention in an annotated network as products, in place.

    Returns:
        What took the place of each: the second product, annotated. Attention with a mask, dropout or a scale of its
        own stays, and so do operands of different numbers of dimensions.
    """
    products = []
    for node in network.graph.find_nodes(op="call_function", target=_aten.scaled_dot_product_attention.default):
        shapes = [shape_of(source) or () for source in node.all_input_nodes]
        plain = not node.kwargs and len(node.args) == len(("query", "key", "value"))
        if not plain or len({len(shape) for shape in shapes}) > 1 or 0 in shapes[0]:
            continue
        query, key, value = node.args
        scale, ndim = 1 / math.sqrt(shapes[0][-1]), len(shapes[0])
        with network.graph.inserting_before(node):
            scaled = network.graph.call_function(_aten.mul.Tensor, (query, scale))  # first: half precision overflows
            logits = _product(scaled, _transposed(key, ndim))
            weights = network.graph.call_function(_aten.softmax.int, (logits, -1))
            products.append(_product(weights, value))
        products[-1].meta = dict(node.meta)
        node.replace_all_uses_with(products[-1])
        network.graph.erase_node(node)
    return products


def transpose_products(products: Iterable[fx.Node]) -> None:
    """(A B)ᵀ = Bᵀ Aᵀ: products that are only read transposed are computed so, in place."""
    for product in products:
        reader = next(iter(product.users), product)
        permuted = reader.target is _aten.permute.default and not reader.kwargs
        order: Any = reader.args[1] if permuted else ()
        if len(product.users) == 1 and order and list(order) == _exchanged(len(order)):
            left, right = product.args
            with reader.graph.inserting_before(reader):
                made = _product(_transposed(right, len(order)), _transposed(left, len(order)))
            reader.replace_all_uses_with(made)


def _product(left: Any, right: Any) -> fx.Node:
    made: fx.Node = left.graph.call_function(_aten.matmul.default, (left, right))
    return made


def _transposed(node: Any, ndim: int) -> fx.Node:
    made: fx.Node = node.graph.call_function(_aten.permute.default, (node, _exchanged(ndim)))
    return made


def _exchanged(ndim: int) -> list[int]:
    """The order that exchanges the last two dimensions."""
    return [*range(ndim - 2), ndim - 1, ndim - 2]
