"""Convolutions whose weights are other ones for each sample: ONNX wants to know the number of groups."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gate2static.export.forms.pooling import each_dimension

_aten = torch.ops.aten


def convolution_by_sample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """Convolves group by group as products of matrices, one for each position of the window."""
    n = x.dim() - 2
    strides, paddings, dilations = each_dimension(stride, n), each_dimension(padding, n), each_dimension(dilation, n)
    samples = x.shape[0]
    outputs, inputs, *window = weight.shape
    x = F.pad(x, [p for size in reversed(paddings) for p in (size, size)])
    sizes = [
        (size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(x.shape[2:], window, strides, dilations, strict=True)
    ]
    # (samples, groups, channels in, *positions) and (groups, channels out, channels in, *window)
    images = x.reshape(samples, groups, inputs, *x.shape[2:])
    weights = weight.reshape(groups, outputs // groups, inputs, *window)
    out: Any = 0
    for place in product(*map(range, window)):
        read = images
        for d, (at, size, s, dil) in enumerate(zip(place, sizes, strides, dilations, strict=True), start=3):
            read = _aten.slice.Tensor(read, d, at * dil, at * dil + (size - 1) * s + 1, s)
        taken = weights
        for at in place:
            taken = taken.select(3, at)
        out = out + taken @ read.reshape(samples, groups, inputs, math.prod(sizes))
    result: Tensor = out.reshape(samples, outputs, *sizes)
    return result if bias is None else result + bias.reshape(-1, *[1] * n)


def transposed_convolution_by_sample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    """Convolves an image with zeros between its positions with the mirrored window."""
    n = x.dim() - 2
    inputs, outputs, *window = weight.shape
    settings = [each_dimension(setting, n) for setting in (stride, padding, output_padding, dilation)]
    margins = zip(window, *settings, strict=True)
    around: list[int] = []
    for d, (k, s, p, extra, dil) in enumerate(margins, start=2):
        if s > 1:
            size = x.shape[d]
            spread = F.pad(x.unsqueeze(d + 1), [0, 0] * (x.dim() - d - 1) + [0, s - 1])
            x = spread.reshape(*x.shape[:d], size * s, *x.shape[d + 1 :]).narrow(d, 0, size * s - s + 1)
        margin = dil * (k - 1) - p
        around = [margin, margin + extra, *around]
    mirrored = weight.reshape(groups, inputs // groups, outputs, *window).transpose(1, 2).flip(list(range(3, 3 + n)))
    mirrored = mirrored.reshape(groups * outputs, inputs // groups, *window)
    return convolution_by_sample(F.pad(x, around), mirrored, bias, (1,), (0,), dilation, groups)
