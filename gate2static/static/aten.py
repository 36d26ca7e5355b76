"""Shapes of an emitted or captured network, found on tensors without content."""

import math
from itertools import chain

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from gate2static.graphs import quiet

_aten = torch.ops.aten
CONVOLUTIONS = {3: _aten.conv1d.default, 4: _aten.conv2d.default, 5: _aten.conv3d.default}
"""By the number of dimensions of their values."""
ANY_BATCH = 1009
"""A batch that no other size is taken for."""


def any_batch(network: nn.Module, examples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs like the examples, for a batch of `ANY_BATCH` in the network's dtype and on its device."""
    stored = chain(network.parameters(), network.buffers())
    like = next((tensor for tensor in stored if tensor.is_floating_point()), torch.empty(()))
    return tuple(
        torch.empty(
            (ANY_BATCH, *x.shape[1:]), dtype=like.dtype if x.is_floating_point() else x.dtype, device=like.device
        )
        for x in examples
    )


def annotate(network: fx.GraphModule, examples: tuple[Tensor, ...]) -> None:
    """Note on every node what its value looks like, for a batch of `ANY_BATCH`."""
    # Made before the mode is entered: inside it, ShapeProp copies the network, which takes longer than the shapes.
    shapes = ShapeProp(network)
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        shapes.propagate(*any_batch(network, examples))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Of an annotated node; None where its value is not one tensor."""
    found = node.meta.get("tensor_meta")
    return tuple(found.shape) if isinstance(found, TensorMetadata) else None


def elements(node: fx.Node) -> int:
    """How many numbers a sample's value has, where it follows the batch; 0 where it is not one tensor."""
    shape = shape_of(node)
    return 0 if shape is None else math.prod(shape) // ANY_BATCH


def dtype_of(node: fx.Node) -> torch.dtype:
    """Of an annotated node whose value is one tensor."""
    found = node.meta["tensor_meta"]
    assert isinstance(found, TensorMetadata)
    return found.dtype
