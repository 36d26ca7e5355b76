"""Operators that a static network has under another name, or written in others.

What torch only marks, such as a conjugate, is computed; memory that nobody set is zero. What does not run without
content is written in operators that do, and what reads memory unchecked where its operands say so, as torchvision's
kernels do, in operators that check.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gate2static.errors import PruneError

_aten = torch.ops.aten

CANONICAL: Mapping[Any, Any] = {
    _aten.view.default: _aten.reshape.default,  # what stood here may have been a copy
    _aten.__and__.Tensor: _aten.bitwise_and.Tensor,
    _aten.__or__.Tensor: _aten.bitwise_or.Tensor,
    _aten.__xor__.Tensor: _aten.bitwise_xor.Tensor,
    _aten.lift_fresh.default: _aten.lift_fresh_copy.default,
    _aten._conj.default: _aten.conj_physical.default,
    _aten._neg_view.default: _aten.neg.default,
    _aten.resolve_conj.default: _aten.clone.default,
    _aten.resolve_neg.default: _aten.clone.default,
    _aten.empty_like.default: _aten.zeros_like.default,
    _aten.new_empty.default: _aten.new_zeros.default,
    _aten.empty.memory_format: _aten.zeros.default,
}
"""Operator -> the one that a static network has instead, with the same arguments."""


def form_in_aten(operator: torch._ops.OpOverload) -> Callable[..., Any] | None:
    """Returns how an operator is written in others, or None for operators that a static network has as they are.

    The form returns `NotImplemented` where the operator stays with these arguments.
    """
    return _FORMS.get(operator._schema.name)


def lacks_onnx_form(name: str) -> bool:
    """Returns whether an operator, by its name in a file, can be written in ONNX in no way that is known here."""
    return name.split(".")[1].lstrip("_").startswith(_WITHOUT_ONNX)


_WITHOUT_ONNX = (
    "digamma", "polygamma", "lgamma", "mvlgamma", "i0", "special_i", "special_bessel", "special_modified",
    "special_zeta", "erfinv", "nextafter", "igamma", "linalg_cholesky", "linalg_eig", "linalg_house", "linalg_inv",
    "linalg_pinv", "linalg_qr", "linalg_slogdet", "linalg_solve", "linalg_svd", "linalg_lu", "linalg_matrix_exp",
    "matrix_exp", "cholesky", "geqrf", "histc", "svd", "qr", "inverse", "pinverse", "logdet", "slogdet",
    "triangular_solve",
)  # fmt: skip
"""How the names of operators begin that neither torch's table nor `export/onnx_forms.py` can write."""


def _deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor,
    bias: Tensor,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Tensor:
    """Samples an image wherever the window of a convolution was moved to, then convolves."""
    n, channels, height, width = x.shape
    outputs, _, window_h, window_w = weight.shape
    taps = window_h * window_w
    rows, columns = offset.shape[2:]
    # (N, offset groups, taps, rows, columns)
    moved = offset.reshape(n * offset_groups, taps, 2, rows, columns)
    own: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
    tap = torch.arange(taps, **own)
    tap_y = torch.floor(tap / window_w)
    down = torch.arange(rows, **own) * stride_h - pad_h
    along = torch.arange(columns, **own) * stride_w - pad_w
    y = moved[:, :, 0] + down.view(1, 1, -1, 1) + (tap_y * dilation_h).view(1, -1, 1, 1)
    at = moved[:, :, 1] + along.view(1, 1, 1, -1) + ((tap - tap_y * window_w) * dilation_w).view(1, -1, 1, 1)
    # `grid_sample` counts from -1 to 1, here between the borders of the image.
    grid = torch.stack([(2 * at + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grouped = x.reshape(n * offset_groups, channels // offset_groups, height, width)
    sampled = F.grid_sample(
        grouped, grid.reshape(n * offset_groups, taps * rows, columns, 2), padding_mode="zeros", align_corners=False
    ).reshape(n * offset_groups, channels // offset_groups, taps, rows, columns)
    if use_mask:
        sampled = sampled * mask.reshape(n * offset_groups, 1, taps, rows, columns)
    windows = sampled.reshape(n, channels * taps, rows, columns)
    return F.conv2d(windows, weight.reshape(outputs, -1, 1, 1), bias, groups=groups)


def _roi_align(
    x: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Averages samples in boxes, which are products of weights for rows and weights for columns."""
    shift = 0.5 if aligned else 0.0
    left, top, right, bottom = (rois[:, i] * spatial_scale - shift for i in range(1, 5))
    sizes = (bottom - top, right - left) if aligned else ((bottom - top).clamp(min=1), (right - left).clamp(min=1))
    of_rows = _samples(top, sizes[0], pooled_height, x.shape[2], sampling_ratio)
    of_columns = _samples(left, sizes[1], pooled_width, x.shape[3], sampling_ratio)
    images = x[rois[:, 0].long()]
    # (boxes, 1, bins, rows) (boxes, C, rows, columns) (boxes, 1, columns, bins)
    return of_rows.unsqueeze(1) @ images @ of_columns.unsqueeze(1).transpose(2, 3)


def _samples(start: Tensor, size: Tensor, bins: int, positions: int, sampling_ratio: int) -> Tensor:
    """Returns the weight of each position in each bin of each box, along one dimension (boxes, bins, positions)."""
    own: dict[str, Any] = {"dtype": start.dtype, "device": start.device}
    bin_size = size / bins
    # Without a ratio there is a sample per position, and never more than positions make a difference.
    count = torch.full_like(size, float(sampling_ratio)) if sampling_ratio > 0 else torch.ceil(size / bins)
    most = sampling_ratio if sampling_ratio > 0 else positions
    sample = torch.arange(most, **own)
    steps = (sample + 0.5) / count.view(-1, 1, 1)
    # (boxes, bins, samples)
    at = start.view(-1, 1, 1) + (torch.arange(bins, **own).view(1, -1, 1) + steps) * bin_size.view(-1, 1, 1)
    counts = (sample < count.view(-1, 1, 1)) & (at >= -1) & (at <= positions)
    # Between two positions, the nearer one weighs more.
    distance = (at.clamp(0, positions - 1).unsqueeze(-1) - torch.arange(positions, **own)).abs()
    weights = (1 - distance).clamp(min=0) * counts.unsqueeze(-1)
    averages: Tensor = weights.sum(2) / count.clamp(min=1).view(-1, 1, 1)
    return averages


def _fake_quantized(*_: Any, **__: Any) -> Tensor:
    """Refuses fake quantisation: in any type of numbers its steps are float32, so that nothing could be verified.

    Raises:
        PruneError: Always.
    """
    raise PruneError(
        "the network quantises its values itself, which rounds differently in every type of numbers; train without, "
        "and make an int8 file of the exported ONNX file with quantize_onnx."
    )


def _rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    """Leaks at the middle of the range, as in evaluation."""
    return F.leaky_relu(x, (lower + upper) / 2)


def _rrelu_with_noise(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    return _rrelu(x, lower, upper)


def _no_dropout(x: Tensor, p: float, train: bool) -> Tensor:
    """Passes on what it is given, as in evaluation.

    Raises:
        PruneError: It drops in evaluation, too.
    """
    if train:
        raise PruneError(
            "the network drops values in evaluation, too, which no static network can equal; pass "
            "training=self.training or use a dropout layer."
        )
    return x


def _dropout(x: Tensor, p: float, train: bool) -> Any:
    """Keeps dropout, which passes on what it is given, for `StaticModel.trainable`, but for that of probability 0."""
    passed = _no_dropout(x, p, train)
    return NotImplemented if p else passed


_FORMS: Mapping[str, Callable[..., Any]] = {
    "aten::alpha_dropout": _no_dropout,
    "aten::dropout": _dropout,
    "aten::feature_alpha_dropout": _no_dropout,
    "aten::feature_dropout": _dropout,
    "torchvision::deform_conv2d": _deform_conv2d,
    "torchvision::roi_align": _roi_align,
    "aten::fake_quantize_per_tensor_affine": _fake_quantized,
    "aten::fake_quantize_per_channel_affine": _fake_quantized,
    "aten::rrelu": _rrelu,
    "aten::rrelu_with_noise": _rrelu_with_noise,
}
"""Name of an operator -> its form. Names, because torchvision need not be installed."""
