"""The dimensions of a value that carry its channels.

A value with the shape that the user's code gave it is *canonical*. Its channels may lie along one dimension, as in
(N, C, H, W), or along several, as in the (N, heads, L, C / heads) of attention: then channel c counts through `dims`,
the last the fastest. Emitted tensors are *physical*: whatever the canonical shape, their channels lie along one
dimension, `axis(dims)`, so that any subset in any order is an ordinary tensor. The other dimensions keep their order.
For one channel dimension canonical and physical are the same.
"""

import math
from collections.abc import Sequence

import torch
from torch import fx

Dims = tuple[int, ...]
"""Dimensions, increasing."""


def axis(dims: Dims) -> int:
    """Returns where a physical tensor has its channels: after the other dimensions that precede the last of `dims`."""
    return dims[-1] - len(dims) + 1


def others(ndim: int, dims: Dims) -> list[int]:
    """Returns the dimensions that are not among `dims`."""
    return [d for d in range(ndim) if d not in dims]


def count(shape: Sequence[int], dims: Dims) -> int:
    """Returns the number of channels along `dims`."""
    return math.prod(shape[d] for d in dims)


def to_canonical(graph: fx.Graph, node: fx.Node, shape: Sequence[int], dims: Dims) -> fx.Node:
    """Emits the canonical form of a physical tensor that holds all channels in order."""
    if len(dims) == 1:
        return node
    at = axis(dims)
    rest = others(len(shape), dims)
    # (…, channels, …) -> (…, *dims, …), then every dimension where the user's code has it
    unflattened = graph.call_function(torch.unflatten, (node, at, [shape[d] for d in dims]))
    order = [*rest[:at], *dims, *rest[at:]]
    return permuted(graph, unflattened, [order.index(d) for d in range(len(shape))])


def to_physical(graph: fx.Graph, node: fx.Node, ndim: int, dims: Dims) -> fx.Node:
    """Emits the physical form of a canonical tensor; one of any sizes along `dims` counts its own channels."""
    if len(dims) == 1:
        return node
    at = axis(dims)
    rest = others(ndim, dims)
    side_by_side = permuted(graph, node, [*rest[:at], *dims, *rest[at:]])
    return graph.call_function(torch.flatten, (side_by_side, at, at + len(dims) - 1))


def permuted(graph: fx.Graph, node: fx.Node, order: Sequence[int]) -> fx.Node:
    """Emits `node` with its dimensions in another order; the node itself where the order is its own."""
    if list(order) == list(range(len(order))):
        return node
    return graph.call_function(torch.permute, (node, list(order)))
