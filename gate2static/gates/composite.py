"""Functions that move data in several steps, as those steps. The batch, and the size of the image, stay open."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

LAYERS = (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.GLU)
"""Layers that call one of these functions and nothing else."""


def _pixel_shuffle(shape: tuple[int, ...], input: Any, upscale_factor: int) -> Any:  # noqa: A002  # torch's name
    if len(shape) != 4:
        return NotImplemented
    r, channels, (h, w) = upscale_factor, shape[1] // upscale_factor**2, (input.size(2), input.size(3))
    split = input.reshape(-1, channels, r, r, h, w)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(-1, channels, h * r, w * r)


def _pixel_unshuffle(shape: tuple[int, ...], input: Any, downscale_factor: int) -> Any:  # noqa: A002  # torch's name
    if len(shape) != 4:
        return NotImplemented
    r, channels = downscale_factor, shape[1]
    h, w = input.size(2) // r, input.size(3) // r
    split = input.reshape(-1, channels, h, r, w, r)
    return split.permute(0, 1, 3, 5, 2, 4).reshape(-1, channels * r * r, h, w)


def _channel_shuffle(shape: tuple[int, ...], input: Any, groups: int) -> Any:  # noqa: A002  # torch's name
    image = [input.size(d) for d in range(2, len(shape))]
    split = input.reshape(-1, groups, shape[1] // groups, *image)
    return split.transpose(1, 2).reshape(-1, shape[1], *image)


def _glu(shape: tuple[int, ...], input: Any, dim: int = -1) -> Any:  # noqa: A002  # torch's name
    half = shape[dim] // 2
    if dim % len(shape) == 0:
        return NotImplemented
    return input.narrow(dim, 0, half) * input.narrow(dim, half, half).sigmoid()


STEPS: dict[Any, Callable[..., Any]] = {
    F.pixel_shuffle: _pixel_shuffle,
    torch.pixel_shuffle: _pixel_shuffle,
    F.pixel_unshuffle: _pixel_unshuffle,
    torch.pixel_unshuffle: _pixel_unshuffle,
    F.channel_shuffle: _channel_shuffle,
    torch.channel_shuffle: _channel_shuffle,
    F.glu: _glu,
}
"""Function -> its steps, called with the shape of the input and the function's own arguments; `NotImplemented` where
they do not apply."""
