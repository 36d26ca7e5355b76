"""Functions that do several things at once, as those steps. The batch, and the size of the image, stay open."""

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


def _matrix_product(equation: str, *operands: Any) -> Any:
    """An einsum that sums over one letter, as a product of matrices; `NotImplemented` for all others."""
    inputs, _, out = equation.replace(" ", "").partition("->")
    first, _, second = inputs.partition(",")
    batch = [c for c in out if c in first and c in second]
    left, right = [c for c in first if c not in second], [c for c in second if c not in first]
    summed = [c for c in first if c in second and c not in out]
    once = all(len(set(term)) == len(term) and term.isalpha() for term in (first, second, out))
    if not once or len(operands) != 2 or not (len(left) == len(right) == len(summed) == 1) or {*left, *right} - {*out}:
        return NotImplemented
    a = _permuted(operands[0], first, [*batch, *left, *summed])
    b = _permuted(operands[1], second, [*batch, *summed, *right])
    return _permuted(torch.matmul(a, b), "".join([*batch, *left, *right]), [*out])


def _permuted(tensor: Any, letters: str, wanted: list[str]) -> Any:
    return tensor if [*letters] == wanted else tensor.permute([letters.index(c) for c in wanted])


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


def in_steps(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape_of: Callable[[Any], Any]) -> Any:
    """What a call computes, in steps; `NotImplemented` where there are none."""
    if function is torch.einsum and isinstance(args[0], str):
        return _matrix_product(args[0], *(args[1] if isinstance(args[1], list | tuple) else args[1:]))
    if function not in STEPS or (shape := shape_of(args[0] if args else kwargs.get("input"))) is None:
        return NotImplemented
    return STEPS[function](shape, *args, **kwargs)
