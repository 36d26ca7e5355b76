"""Replaces functions that do several things at once by their steps: shuffles, gated linear units, and einsums.

The steps leave the batch size and the size of the image open.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

LAYERS = (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.GLU)
"""Layers that call one of these functions and nothing else."""


def in_steps(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shape_of: Callable[[Any], Any]) -> Any:
    """Computes a call in steps.

    Args:
        function: The function that is called.
        args: The positional arguments, with proxies for tensors.
        kwargs: The named arguments.
        shape_of: Returns the shape of an argument, or None where it is no tensor.

    Returns:
        The result of the last step, or `NotImplemented` where the call has no steps.
    """
    if function is torch.einsum and isinstance(args[0], str):
        operands = args[1] if isinstance(args[1], list | tuple) else args[1:]
        return _matrix_product(args[0], operands)
    if function not in STEPS:
        return NotImplemented
    shape = shape_of(args[0] if args else kwargs.get("input"))
    if shape is None:
        return NotImplemented
    return STEPS[function](shape, *args, **kwargs)


def _pixel_shuffle(shape: tuple[int, ...], input: Any, upscale_factor: int) -> Any:  # noqa: A002  # torch's name
    if len(shape) != 4:
        return NotImplemented
    r = upscale_factor
    channels = shape[1] // r**2
    h = input.size(2)
    w = input.size(3)
    # (N, C r², H, W) to (N, C, r, r, H, W) to (N, C, H, r, W, r)
    pieces = input.reshape(-1, channels, r, r, h, w).permute(0, 1, 4, 2, 5, 3)
    return pieces.reshape(-1, channels, h * r, w * r)


def _pixel_unshuffle(shape: tuple[int, ...], input: Any, downscale_factor: int) -> Any:  # noqa: A002  # torch's name
    if len(shape) != 4:
        return NotImplemented
    r = downscale_factor
    channels = shape[1]
    h = input.size(2) // r
    w = input.size(3) // r
    # (N, C, H r, W r) to (N, C, H, r, W, r) to (N, C, r, r, H, W)
    pieces = input.reshape(-1, channels, h, r, w, r).permute(0, 1, 3, 5, 2, 4)
    return pieces.reshape(-1, channels * r * r, h, w)


def _channel_shuffle(shape: tuple[int, ...], input: Any, groups: int) -> Any:  # noqa: A002  # torch's name
    image = [input.size(d) for d in range(2, len(shape))]
    # (N, groups, C / groups, *image) to (N, C / groups, groups, *image)
    pieces = input.reshape(-1, groups, shape[1] // groups, *image).transpose(1, 2)
    return pieces.reshape(-1, shape[1], *image)


def _glu(shape: tuple[int, ...], input: Any, dim: int = -1) -> Any:  # noqa: A002  # torch's name
    half = shape[dim] // 2
    if dim % len(shape) == 0:
        # Halves of the batch have no fixed size.
        return NotImplemented
    return input.narrow(dim, 0, half) * input.narrow(dim, half, half).sigmoid()


def _matrix_product(equation: str, operands: Sequence[Any]) -> Any:
    """Computes an einsum of two tensors that sums over one letter as a product of matrices, over none as a product.

    Args:
        equation: The equation, such as "bhid,bhjd->bhij".
        operands: The tensors.

    Returns:
        The product, or `NotImplemented` where the einsum is none.
    """
    inputs, _, out = equation.replace(" ", "").partition("->")
    first, _, second = inputs.partition(",")
    # Letters of the batch are in all three terms, those of rows and of columns in one operand and the result.
    batch = [c for c in out if c in first and c in second]
    rows = [c for c in first if c not in second]
    columns = [c for c in second if c not in first]
    summed = [c for c in first if c in second and c not in out]
    has_plain_terms = all(len(set(term)) == len(term) and term.isalpha() for term in (first, second, out))
    is_product = len(rows) == len(columns) == len(summed) == 1 and {*rows, *columns} <= {*out}
    if has_plain_terms and len(operands) == 2 and {*first, *second} == {*out}:
        # Nothing is summed.
        return _spread(operands[0], first, out) * _spread(operands[1], second, out)
    if not has_plain_terms or len(operands) != 2 or not is_product:
        return NotImplemented
    a = _permuted(operands[0], first, [*batch, *rows, *summed])
    b = _permuted(operands[1], second, [*batch, *summed, *columns])
    return _permuted(torch.matmul(a, b), "".join([*batch, *rows, *columns]), [*out])


def _permuted(tensor: Any, letters: str, order: list[str]) -> Any:
    """Returns a tensor whose dimensions have these letters with its dimensions in another order."""
    return tensor if [*letters] == order else tensor.permute([letters.index(c) for c in order])


def _spread(tensor: Any, letters: str, out: str) -> Any:
    """Returns a tensor whose dimensions have these letters with dimensions of size 1 for all others."""
    tensor = _permuted(tensor, letters, [c for c in out if c in letters])
    for d, c in enumerate(out):
        if c not in letters:
            tensor = tensor.unsqueeze(d)
    return tensor


STEPS: dict[Any, Callable[..., Any]] = {
    F.pixel_shuffle: _pixel_shuffle,
    torch.pixel_shuffle: _pixel_shuffle,
    F.pixel_unshuffle: _pixel_unshuffle,
    torch.pixel_unshuffle: _pixel_unshuffle,
    F.channel_shuffle: _channel_shuffle,
    torch.channel_shuffle: _channel_shuffle,
    F.glu: _glu,
}
"""Function -> its steps.

The steps are called with the shape of the input and the function's own arguments, and return `NotImplemented` where
they do not apply.
"""
