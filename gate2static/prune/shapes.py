"""Shapes of an emitted or captured network, found on tensors without content."""

import math
from itertools import chain

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from gate2static.gates.shapes import quiet

_aten = torch.ops.aten
CONVOLUTIONS = {3: _aten.conv1d.default, 4: _aten.conv2d.default, 5: _aten.conv3d.default}
"""By the number of dimensions of their values."""
ANY_BATCH = 1009
"""A batch that no other size is taken for."""


def annotate(network: fx.GraphModule, examples: tuple[Tensor, ...], *, batch: int = 1) -> None:
    """Note on every node what its value looks like, for a batch in the network's dtype and on its device."""
    stored = chain(network.parameters(), network.buffers())
    like = next((tensor for tensor in stored if tensor.is_floating_point()), torch.empty(()))
    examples = tuple(x.to(like if x.is_floating_point() else like.device) for x in examples)
    # Made before the mode is entered: inside it, ShapeProp copies the network, which takes longer than the shapes.
    shapes = ShapeProp(network)
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        shapes.propagate(*(x[:1].expand(batch, *x.shape[1:]) for x in examples))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Of an annotated node; None where its value is not one tensor."""
    found = node.meta.get("tensor_meta")
    return tuple(found.shape) if isinstance(found, TensorMetadata) else None


def elements(node: fx.Node) -> int:
    """How many numbers the value of an annotated node has; 0 where it is not one tensor."""
    shape = shape_of(node)
    return 0 if shape is None else math.prod(shape)


def dtype_of(node: fx.Node) -> torch.dtype:
    """Of an annotated node whose value is one tensor."""
    found = node.meta["tensor_meta"]
    assert isinstance(found, TensorMetadata)
    return found.dtype
