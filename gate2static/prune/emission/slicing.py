"""Layers cut to fewer channels: copies of the user's own layers that hold slices of their tensors, bit for bit."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gate2static.graphs import Ids
from gate2static.program.operators import TRANSPOSED_CONVOLUTIONS


def output_dim(layer: nn.Module) -> int:
    """Returns the dimension of a layer's weight that counts output channels."""
    return 1 if isinstance(layer, TRANSPOSED_CONVOLUTIONS) else 0


def tensors_of(layer: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a layer by name, without counters."""
    named = {**layer._parameters, **layer._buffers}
    return {name: t.detach() for name, t in named.items() if t is not None and t.is_floating_point()}


def picked(layers: Sequence[nn.Module], name: str, owners: Ids, channels: Ids, dim: int = 0) -> Tensor:
    """Collects slices of a tensor that all streams have.

    Args:
        layers: One layer per stream.
        name: The tensor's name in them.
        owners: The stream that each slice comes from.
        channels: The position of each slice along `dim` in its stream's tensor.
        dim: The dimension that counts the slices.

    Returns:
        The slices side by side along `dim`, in the order of `owners` and `channels`.
    """
    tensors = [tensors_of(layer)[name] for layer in layers]
    slices = [select(tensors[int(owner)], dim, channels[owners == owner]) for owner in np.unique(owners)]
    # The slices are sorted by owner now: put them back.
    original_order = np.argsort(np.argsort(owners, kind="stable"))
    return select(torch.cat(slices, dim), dim, original_order)


def select(tensor: Tensor, dim: int, positions: Ids) -> Tensor:
    """Returns slices of a tensor along `dim`; the tensor itself where they are all of it in order."""
    if np.array_equal(positions, np.arange(tensor.shape[dim])):
        return tensor
    index = torch.from_numpy(np.ascontiguousarray(positions)).to(tensor.device)
    return tensor.index_select(dim, index)


def with_tensors(layer: nn.Module, tensors: Mapping[str, Tensor], **settings: Any) -> nn.Module:
    """Copies a layer without children, in eval mode, with other tensors and settings."""
    # A shallow copy keeps the user's own class, and with it whatever its forward does besides (padding, weight
    # standardisation per output channel).
    sliced = copy.copy(layer)
    sliced._parameters = {
        name: None if parameter is None else nn.Parameter(tensors[name], requires_grad=False)
        for name, parameter in layer._parameters.items()
    }
    # Counters of batches are left out: they do nothing in eval mode.
    sliced._buffers = {name: tensors.get(name) for name in layer._buffers}
    sliced._modules = {}
    for name, value in settings.items():
        setattr(sliced, name, value)
    return sliced.eval()
