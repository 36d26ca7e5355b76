"""Pooling in operators that ONNX has: windows that end beyond the padding, other divisors, and adaptive windows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _windows(
    x: Tensor, window: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], ceil: bool
) -> list[tuple[int, int, int, int]]:
    """Returns, for each dimension of positions, the windows, their extent, their stride and the padding in front."""
    n = len(window)
    windows_of_dims = []
    others = [each_dimension(setting, n) for setting in (stride or window, padding, dilation)]
    settings = zip(window, *others, strict=True)
    for size, (k, s, p, d) in zip(x.shape[-n:], settings, strict=True):
        extent = d * (k - 1) + 1
        windows = (size + 2 * p - extent) // s + 1
        if ceil:
            windows = -(-(size + 2 * p - extent) // s) + 1
            # Torch leaves out a window that would start in the padding behind; ONNX does not.
            windows -= (windows - 1) * s >= size + p
        windows_of_dims.append((windows, extent, s, p))
    return windows_of_dims


def _padded(x: Tensor, windows: list[tuple[int, int, int, int]], value: float) -> Tensor:
    """Pads the positions so that exactly these windows fit."""
    around: list[int] = []
    for size, (count, extent, s, p) in zip(x.shape[-len(windows) :], windows, strict=True):
        around = [p, (count - 1) * s + extent - size - p, *around]
    return F.pad(x, around, value=value)


def _maximum_pool(
    n: int,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """Pools n dimensions of positions, with padding for the windows that torch has."""
    window = each_dimension(kernel_size, n)
    windows = _windows(x, window, stride, padding, dilation, ceil_mode)
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    strides = [s for _, _, s, _ in windows]
    pooled: Tensor = pool(_padded(x, windows, -math.inf), window, strides, 0, each_dimension(dilation, n))
    return pooled


def maximum_pool(n: int) -> Callable[..., Tensor]:
    """Returns the form of pooling over n dimensions of positions, which takes the operator's arguments."""
    return lambda *args, **kwargs: _maximum_pool(n, *args, **kwargs)


def average_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Pools as sums over the numbers of positions that torch counts."""
    n = x.dim() - 2
    window = each_dimension(kernel_size, n)
    windows = _windows(x, window, stride, padding, (1,), ceil_mode)
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    means: Tensor = pool(_padded(x, windows, 0.0), window, [s for _, _, s, _ in windows])
    if divisor_override:
        return means * (math.prod(window) / divisor_override)
    for d, (size, (count, k, s, p)) in enumerate(zip(x.shape[2:], windows, strict=True)):
        first, last = (-p, size + p) if count_include_pad else (0, size)
        counted = [min(i * s - p + k, last) - max(i * s - p, first) for i in range(count)]
        shape = [-1] + [1] * (n - d - 1)
        means = means * torch.tensor([k / positions for positions in counted], dtype=x.dtype).reshape(shape)
    return means


def each_dimension(sizes: Sequence[int], n: int) -> tuple[int, ...]:
    """Returns a setting for each of n dimensions, which may be given once for all."""
    return tuple(sizes) * n if len(sizes) == 1 else tuple(sizes)


def _bounds(size: int, windows: int) -> list[tuple[int, int]]:
    """Returns where the windows of adaptive pooling begin and end."""
    return [(i * size // windows, -(-(i + 1) * size // windows)) for i in range(windows)]


def adaptive_average_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Pools (…, *positions) to a size: along one dimension after the other, as products where windows differ."""
    n = len(output_size)
    if tuple(output_size) == (1,) * n:
        return x.mean(list(range(-n, 0)), keepdim=True)
    for dim, windows in zip(range(-n, 0), output_size, strict=True):
        size = x.shape[dim]
        if windows == size:
            continue
        bounds = _bounds(size, windows)
        # (positions, windows)
        shares = [[(begin <= i < end) / (end - begin) for begin, end in bounds] for i in range(size)]
        x = (x.transpose(dim, -1) @ torch.tensor(shares, dtype=x.dtype)).transpose(dim, -1)
    return x


def adaptive_maximum_pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor]:
    """Pools (…, *positions) to a size, along one dimension after the other."""
    n = len(output_size)
    for dim, windows in zip(range(-n, 0), output_size, strict=True):
        bounds = _bounds(x.shape[dim], windows)
        x = torch.cat([x.narrow(dim, begin, end - begin).amax(dim, keepdim=True) for begin, end in bounds], dim)
    return (x,)
