"""Layers cut to fewer channels: copies of the user's own layers that hold slices of their tensors, bit for bit."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gate2static.graphs import Ids

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def output_dim(layer: nn.Module) -> int:
    """Which dimension of a weight counts output channels."""
    return 1 if isinstance(layer, _TRANSPOSED) else 0


def tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a layer, without counters."""
    named = {**layer._parameters, **layer._buffers}
    return {name: t.detach() for name, t in named.items() if t is not None and t.is_floating_point()}


def picked(layers: Sequence[nn.Module], name: str, owners: Ids, channels: Ids, dim: int = 0) -> Tensor:
    """Slice i along `dim` is slice `channels[i]` of the tensor `name` of layer `owners[i]`."""
    return _in_order([tensors_of(layer)[name] for layer in layers], owners, channels, dim)


def _in_order(tensors: Sequence[Tensor], owners: Ids, channels: Ids, dim: int) -> Tensor:
    pieces = []
    for owner in np.unique(owners):
        pieces.append(select(tensors[int(owner)], dim, channels[owners == owner]))
    back = np.argsort(np.argsort(owners, kind="stable"))
    return select(torch.cat(pieces, dim), dim, back)


def select(tensor: Tensor, dim: int, positions: Ids) -> Tensor:
    """Slices of a tensor; itself where that is all of it in order."""
    if np.array_equal(positions, np.arange(tensor.shape[dim])):
        return tensor
    return tensor.index_select(dim, torch.from_numpy(np.ascontiguousarray(positions)).to(tensor.device))


def with_tensors(layer: nn.Module, tensors: Mapping[str, Tensor], **settings: Any) -> nn.Module:
    """A copy of a layer without children, in eval mode, with other tensors and settings."""
    made = copy.copy(layer)
    made._parameters = {
        name: None if old is None else nn.Parameter(tensors[name], requires_grad=False)
        for name, old in layer._parameters.items()
    }
    # A counter of batches does nothing in eval mode.
    made._buffers = {name: tensors.get(name) for name in layer._buffers}
    made._modules = {}
    for name, value in settings.items():
        setattr(made, name, value)
    return made.eval()
