"""Finds along which dimension the values of a backbone have their channels.

1. A layer or a norm says where the channels of its output are.
2. A permutation takes them along.
3. Everything else leaves them where they are: in the same dimension, or in the last one where they were last.

What follows no layer has its channels behind the batch where it has two or more further dimensions, as images have, and
last otherwise, as tokens and vectors have.
"""

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gate2static.program.annotate import info
from gate2static.program.layer_kinds import channel_dim
from gate2static.program.operators import WEIGHT_FUNCTIONS, WEIGHT_LAYERS, is_norm

_PERMUTATIONS = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t")
_PRODUCTS = ("matmul", "bmm", "mm", "addmm", "baddbmm", "einsum")


def channel_dims(root: nn.Module, graph: fx.Graph) -> dict[fx.Node, int]:
    """Returns the dimension of the channels of every tensor in a graph, the batch counted as dimension 0.

    Args:
        root: The owner of the modules that the graph calls.
        graph: An annotated graph.
    """
    dims: dict[fx.Node, int] = {}
    known: dict[fx.Node, int] = {}
    for node in graph.nodes:
        shape = info(node).shape if "info" in node.meta else None
        if not shape:
            continue
        dim = _known_dim(root, node, len(shape), known)
        if dim is not None:
            known[node] = dim
        dims[node] = dim if dim is not None else _usual_dim(len(shape))
    return dims


def _usual_dim(ndim: int) -> int:
    return 1 if ndim > 3 else ndim - 1


def _known_dim(root: nn.Module, node: fx.Node, ndim: int, known: dict[fx.Node, int]) -> int | None:
    """Returns the dimension of a value's channels; None where no layer says it."""
    module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, WEIGHT_LAYERS) or is_norm(module):
        return channel_dim(module, ndim)
    if node.target in WEIGHT_FUNCTIONS:
        return ndim - 1 if node.target is F.linear else 1
    if module is not None and any(p.is_floating_point() for p in module.parameters()):
        return None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in _PRODUCTS:
        return ndim - 1
    source = next((value for value in node.all_input_nodes if value in known), None)
    if source is None:
        return None
    if node.op != "call_module" and (name in _PERMUTATIONS or node.target is getattr):
        return _permuted(node, source, known[source])
    return _kept(source, known[source], node)


def _permuted(node: fx.Node, source: fx.Node, dim: int) -> int | None:
    """Returns where a permutation takes a dimension: it is found on a tensor whose sizes all differ."""
    marked = torch.empty([size + 2 for size in range(len(info(source).shape or ()))], device="meta")
    args: tuple[Any, ...] = (marked, *node.args[1:])
    try:
        called = getattr(marked, node.target) if isinstance(node.target, str) else node.target
        result = called(*(args[1:] if isinstance(node.target, str) else args), **node.kwargs)
        return list(result.shape).index(dim + 2)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return None  # dimensions that are computed


def _kept(source: fx.Node, dim: int, node: fx.Node) -> int | None:
    """Returns where channels are behind what permutes nothing, such as an activation, a sum or a view."""
    before, behind = info(source).shape or (), info(node).shape or ()
    if len(before) == len(behind):
        return dim
    if dim == len(before) - 1 and before[-1] == behind[-1]:
        return len(behind) - 1
    return dim if dim < len(behind) and behind[dim] == before[dim] else None
