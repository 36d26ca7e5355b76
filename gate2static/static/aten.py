"""Shapes of a captured network, found on tensors without content."""

import math
import operator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import TensorMetadata, _extract_tensor_metadata

from gate2static.static.capturing.meta_tensors import META, run_without_content, without_content

_SHAPES = "tensor_meta"
_aten = torch.ops.aten
CONVOLUTIONS = {3: _aten.conv1d.default, 4: _aten.conv2d.default, 5: _aten.conv3d.default}
"""By the number of dimensions of their values."""
ANY_BATCH = 1_000_003
"""A batch size that is a prime, so that no other size is taken for it."""


def any_batch(network: nn.Module, examples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs like the examples, for a batch of `ANY_BATCH` in the network's dtype, without content."""
    stored = chain(network.parameters(), network.buffers())
    like = next((tensor for tensor in stored if tensor.is_floating_point()), torch.empty(()))
    return tuple(
        torch.empty((ANY_BATCH, *x.shape[1:]), dtype=like.dtype if x.is_floating_point() else x.dtype, device=META)
        for x in examples
    )


def annotate(network: fx.GraphModule, examples: tuple[Tensor, ...]) -> None:
    """Notes on every node what its value looks like, for a batch of `ANY_BATCH`.

    Nodes that say so already are not run: shapes are carried along when a network is copied or rewritten.
    """
    inputs = any_batch(network, examples)
    values = dict(zip(network.graph.find_nodes(op="placeholder"), inputs, strict=True))
    for node in network.graph.find_nodes(op="get_attr"):
        values[node] = operator.attrgetter(str(node.target))(network)
    if any(_is_stale(node, value) for node, value in values.items()):
        # Converted to another dtype since it was annotated.
        for node in network.graph.nodes:
            node.meta.pop(_SHAPES, None)
    with torch.no_grad():
        _MissingShapes(without_content(network), graph=network.graph).run(*inputs)


class _MissingShapes(fx.Interpreter):
    """Runs only the nodes whose values are not known yet."""

    def run_node(self, n: fx.Node) -> Any:
        known = n.meta.get(_SHAPES)
        if n.op == "call_function" and isinstance(known, TensorMetadata):
            return torch.empty_strided(known.shape, known.stride, dtype=known.dtype, device=META)
        value = super().run_node(n)
        note(n, value)
        return value

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        is_operator = isinstance(target, torch._ops.OpOverload)
        return run_without_content(target, args, kwargs) if is_operator else target(*args, **kwargs)


def note(node: fx.Node, value: Any) -> None:
    """Notes on a node what its value looks like, if it is a tensor or several."""
    if isinstance(value, Tensor):
        node.meta[_SHAPES] = _extract_tensor_metadata(value, include_contiguity=False)
    elif isinstance(value, list | tuple) and any(isinstance(x, Tensor) for x in value):
        node.meta[_SHAPES] = type(value)(
            _extract_tensor_metadata(x, include_contiguity=False) if isinstance(x, Tensor) else x for x in value
        )


def _is_stale(node: fx.Node, value: Tensor) -> bool:
    """Returns whether a node says of itself what is not so any more."""
    known = node.meta.get(_SHAPES)
    return isinstance(known, TensorMetadata) and (known.dtype, known.shape) != (value.dtype, value.shape)


def carry_shape(node: fx.Node, copied: fx.Node) -> None:
    """Notes on a node the shape that another one is known to have."""
    if _SHAPES in node.meta:
        copied.meta[_SHAPES] = node.meta[_SHAPES]


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Of an annotated node; None where its value is not one tensor."""
    metadata = node.meta.get(_SHAPES)
    return tuple(metadata.shape) if isinstance(metadata, TensorMetadata) else None


def elements(node: fx.Node) -> int:
    """How many numbers a sample's value has, where it follows the batch; 0 where it is not one tensor."""
    shape = shape_of(node)
    return 0 if shape is None else math.prod(shape) // ANY_BATCH


def dtype_of(node: fx.Node) -> torch.dtype:
    """Of an annotated node whose value is one tensor."""
    metadata = node.meta[_SHAPES]
    assert isinstance(metadata, TensorMetadata)
    return metadata.dtype
