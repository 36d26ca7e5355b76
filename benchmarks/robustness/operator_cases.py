"""Operators of torch and torchvision, each as a function of an image (N, 8, 16, 16) in the middle of a network.

A case returns a tensor with the batch first, or a tuple of them. What has weights of its own is a module.
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, SIDE = 8, 16
Operator = Callable[[Tensor], Any]


class DeformConv(nn.Module):
    """A deformable convolution, with or without a mask."""

    def __init__(self, masked: bool, groups: int = 1) -> None:
        super().__init__()
        self.offset = nn.Conv2d(CHANNELS, 18, 3, 1, 1)
        self.mask = nn.Conv2d(CHANNELS, 9, 3, 1, 1) if masked else None
        self.layer = torchvision.ops.DeformConv2d(CHANNELS, CHANNELS, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves at positions that it computes from the image."""
        return self.layer(x, self.offset(x), None if self.mask is None else self.mask(x).sigmoid())


class ConditionalConv(nn.Module):
    """A convolution whose weight is another one for every sample: its groups follow the batch."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.router = nn.Linear(CHANNELS, 3)
        self.bank = nn.Parameter(torch.randn(3, CHANNELS, CHANNELS, 3, 3) * 0.1)
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a weight for every sample and convolves with it."""
        n, c, h, w = x.shape
        weight = (self.router(x.mean((2, 3))).sigmoid() @ self.bank.flatten(1)).view(n * c, c, 3, 3)
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        return convolve(x.reshape(1, n * c, h, w), weight, padding=1, groups=n).view(n, c, h, w)


class Correlation(nn.Module):
    """A depth-wise correlation of two halves of the channels, as trackers have: one window per sample."""

    def forward(self, x: Tensor) -> Tensor:
        """Correlates an image with the middle of it."""
        n, c, h, w = x.shape
        return F.conv2d(x.reshape(1, n * c, h, w), x[:, :, 6:9, 6:9].reshape(n * c, 1, 3, 3), groups=n * c).view(
            n, c, h - 2, w - 2
        )


class Recurrent(nn.Module):
    """A recurrent layer along the rows of an image."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Reads the mean of every row as a sequence."""
        y: Tensor = self.layer(x.mean(3).transpose(1, 2))[0]
        return y


class OnTokens(nn.Module):
    """A layer that takes (N, tokens, channels)."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Any:
        """Runs the layer on the positions as tokens."""
        y = self.layer(*[x.flatten(2).transpose(1, 2)] * self.times)
        return y[0] if isinstance(y, tuple) else y


def boxes(x: Tensor) -> Tensor:
    """One box per sample as torchvision takes them: (sample, x1, y1, x2, y2)."""
    n = x.shape[0]
    return torch.cat([torch.arange(n, dtype=x.dtype)[:, None], x.new_tensor([[1.0, 2.0, 9.0, 8.0]]).expand(n, 4)], 1)


def grid(x: Tensor) -> Tensor:
    """A small distortion for every sample."""
    theta = torch.eye(2, 3, dtype=x.dtype) + 0.1 * x.mean((2, 3)).tanh()[:, :6].reshape(-1, 2, 3)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


def filled(x: Tensor) -> Tensor:
    """Halves of the channels, swapped by writing slices."""
    out = torch.empty_like(x)
    out[:, 0::2] = x[:, 1::2]
    out[:, 1::2] = x[:, 0::2]
    return out


def filled_new(x: Tensor) -> Tensor:
    """The same with a new tensor of given sizes, and an ellipsis."""
    out = x.new_empty(x.shape[0], CHANNELS, SIDE, SIDE)
    out[..., :8] = x[..., 8:]
    out[..., 8:] = x[..., :8]
    return out


def pasted(x: Tensor) -> Tensor:
    """A window pasted into zeros."""
    out = torch.zeros_like(x)
    out[:, :, 4:12, 4:12] = x[:, :, 4:12, 4:12]
    return out


def shifted(x: Tensor) -> Tensor:
    """Temporal shift, as written for videos."""
    out = torch.zeros_like(x)
    out[:, :2, :-1] = x[:, :2, 1:]
    out[:, 2:4, 1:] = x[:, 2:4, :-1]
    out[:, 4:] = x[:, 4:]
    return out


def masked_assignment(x: Tensor) -> Tensor:
    """Negative numbers set by a mask as an index."""
    y = x.clone()
    y[y < 0] = 0.5
    return y


def integer_assignment(x: Tensor) -> Tensor:
    """One channel doubled."""
    y = x.clone()
    y[:, 3] = y[:, 2] * 2
    y[:, -1] += 1
    return y


def index_assignment(x: Tensor) -> Tensor:
    """Channels assigned by a list of indices."""
    y = x.clone()
    y[:, [0, 3]] = x[:, [5, 6]]
    return y


def scattered(x: Tensor, reduce: str) -> Tensor:
    """Sums or means of the positions by their remainder."""
    flat = x.flatten(2)
    index = (torch.arange(SIDE * SIDE) % 16).expand(flat.shape)
    return flat.new_zeros(x.shape[0], CHANNELS, 16).scatter_reduce(2, index, flat, reduce, include_self=False)


def as_complex(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of complex numbers, back as real ones."""
    return torch.view_as_real(function(torch.fft.rfft2(x))).flatten(3)


def by_position(x: Tensor, function: Callable[..., Tensor], source: bool = True) -> Tensor:
    """A function of an index along the last dimension."""
    index = torch.arange(SIDE - 1, -1, -1).expand(x.shape)
    return function(x, 3, index, x * 2) if source else function(x, 3, index)


def _names(text: str) -> list[str]:
    return text.split()


OPERATORS: dict[str, Callable[[], Any]] = {
    # Activations.
    **{
        f"F.{name}": lambda name=name: getattr(F, name)
        for name in _names(
            "relu relu6 elu selu celu gelu silu mish sigmoid logsigmoid tanh hardswish hardsigmoid hardtanh "
            "softplus softsign hardshrink softshrink tanhshrink leaky_relu rrelu"
        )
    },
    "F.threshold": lambda: lambda x: F.threshold(x, 0.1, 0.0),
    "F.glu": lambda: lambda x: F.glu(x, 1),
    "nn.PReLU": lambda: nn.PReLU(CHANNELS),
    "F.softmax over channels": lambda: lambda x: F.softmax(x, 1),
    "F.log_softmax over positions": lambda: lambda x: F.log_softmax(x, 3),
    "F.softmin": lambda: lambda x: F.softmin(x, 1),
    "F.gumbel_softmax": lambda: lambda x: F.gumbel_softmax(x, dim=1),
    "F.normalize": lambda: lambda x: F.normalize(x, dim=1),
    "F.dropout": lambda: lambda x: F.dropout(x, 0.1, False),
    "nn.Dropout2d": lambda: nn.Dropout2d(0.1),
    "nn.AlphaDropout": lambda: nn.AlphaDropout(0.1),
    # Norms.
    "nn.BatchNorm2d": lambda: nn.BatchNorm2d(CHANNELS),
    "nn.GroupNorm": lambda: nn.GroupNorm(4, CHANNELS),
    "nn.InstanceNorm2d": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "nn.InstanceNorm2d with statistics": lambda: nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
    "nn.LayerNorm over images": lambda: nn.LayerNorm([CHANNELS, SIDE, SIDE]),
    "nn.LayerNorm over tokens": lambda: OnTokens(nn.LayerNorm(CHANNELS)),
    "nn.RMSNorm": lambda: OnTokens(nn.RMSNorm(CHANNELS)),
    "nn.LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
    "nn.CrossMapLRN2d": lambda: nn.CrossMapLRN2d(3),
    # Pooling.
    "F.max_pool2d": lambda: lambda x: F.max_pool2d(x, 3, 2, 1),
    "F.max_pool2d dilated": lambda: lambda x: F.max_pool2d(x, 3, 1, 1, 2),
    "nn.MaxPool2d ceil, wide stride": lambda: nn.MaxPool2d(2, 3, ceil_mode=True),
    "nn.MaxPool2d ceil, padded": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "F.max_pool2d with indices": lambda: lambda x: F.max_pool2d(x, 2, return_indices=True),
    "F.max_unpool2d": lambda: lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "F.max_pool1d": lambda: lambda x: F.max_pool1d(x.flatten(2), 3),
    "F.max_pool1d ceil": lambda: lambda x: F.max_pool1d(x.flatten(2), 2, 3, ceil_mode=True),
    "F.max_pool3d": lambda: lambda x: F.max_pool3d(x.unsqueeze(1), 2).flatten(1, 2),
    "F.avg_pool1d": lambda: lambda x: F.avg_pool1d(x.flatten(2), 3),
    "F.avg_pool2d": lambda: lambda x: F.avg_pool2d(x, 3, 2, 1),
    "F.avg_pool2d ceil": lambda: lambda x: F.avg_pool2d(x, 2, 3, ceil_mode=True),
    "F.avg_pool2d ceil, padded": lambda: lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "F.avg_pool2d without padding counted": lambda: lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "nn.AvgPool2d divisor_override": lambda: nn.AvgPool2d(3, 2, 1, divisor_override=4),
    "F.avg_pool3d divisor_override": lambda: lambda x: F.avg_pool3d(
        x.unsqueeze(1), 2, divisor_override=3
    ).flatten(1, 2),
    "F.avg_pool3d": lambda: lambda x: F.avg_pool3d(x.unsqueeze(1), 2).flatten(1, 2),
    "F.lp_pool2d": lambda: lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2),
    "F.adaptive_avg_pool2d 1": lambda: lambda x: F.adaptive_avg_pool2d(x, 1),
    "F.adaptive_avg_pool2d divisor": lambda: lambda x: F.adaptive_avg_pool2d(x, (4, 8)),
    "F.adaptive_avg_pool2d no divisor": lambda: lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
    "F.adaptive_avg_pool1d no divisor": lambda: lambda x: F.adaptive_avg_pool1d(x.flatten(2), 7),
    "F.adaptive_avg_pool3d no divisor": lambda: lambda x: F.adaptive_avg_pool3d(
        x.unsqueeze(1), (3, 5, 7)
    ).flatten(1, 2),
    "F.adaptive_max_pool1d": lambda: lambda x: F.adaptive_max_pool1d(x.flatten(2), 4),
    "F.adaptive_max_pool2d 1": lambda: lambda x: F.adaptive_max_pool2d(x, 1),
    "F.adaptive_max_pool2d divisor": lambda: lambda x: F.adaptive_max_pool2d(x, 4),
    "F.adaptive_max_pool2d no divisor": lambda: lambda x: F.adaptive_max_pool2d(x, (5, 7)),
    "F.adaptive_max_pool3d": lambda: lambda x: F.adaptive_max_pool3d(x.unsqueeze(1), (3, 5, 7)).flatten(1, 2),
    "F.fractional_max_pool2d": lambda: lambda x: F.fractional_max_pool2d(x, 2, output_ratio=(0.5, 0.5)),
    # Resizing, padding, moving.
    "F.interpolate nearest": lambda: lambda x: F.interpolate(x, scale_factor=2),
    "F.interpolate nearest, to a size": lambda: lambda x: F.interpolate(x, (23, 9)),
    "F.interpolate nearest-exact": lambda: lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "F.interpolate nearest-exact, to a size": lambda: lambda x: F.interpolate(x, (23, 9), mode="nearest-exact"),
    "F.interpolate nearest-exact, 1d": lambda: lambda x: F.interpolate(x.flatten(2), 40, mode="nearest-exact"),
    "F.interpolate linear": lambda: lambda x: F.interpolate(x.flatten(2), 40, mode="linear"),
    "F.interpolate bilinear": lambda: lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "F.interpolate bilinear, corners": lambda: lambda x: F.interpolate(x, (23, 9), mode="bilinear", align_corners=True),
    "F.interpolate bilinear, antialias": lambda: lambda x: F.interpolate(x, (7, 9), mode="bilinear", antialias=True),
    "F.interpolate bicubic": lambda: lambda x: F.interpolate(x, (23, 9), mode="bicubic"),
    "F.interpolate bicubic, antialias": lambda: lambda x: F.interpolate(x, (7, 9), mode="bicubic", antialias=True),
    "F.interpolate trilinear": lambda: lambda x: F.interpolate(
        x.unsqueeze(1), (8, 20, 12), mode="trilinear"
    ).flatten(1, 2),
    "F.interpolate area": lambda: lambda x: F.interpolate(x, (5, 7), mode="area"),
    "F.grid_sample bilinear": lambda: lambda x: F.grid_sample(x, grid(x), align_corners=False),
    "F.grid_sample nearest, reflection": lambda: lambda x: F.grid_sample(
        x, grid(x), mode="nearest", padding_mode="reflection", align_corners=True
    ),
    "F.grid_sample bicubic, border": lambda: lambda x: F.grid_sample(
        x, grid(x), mode="bicubic", padding_mode="border", align_corners=False
    ),
    "F.pad constant": lambda: lambda x: F.pad(x, (1, 2, 0, 1), value=0.5),
    "F.pad negative": lambda: lambda x: F.pad(x, (-1, 2)),
    "F.pad channels": lambda: lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)),
    "F.pad reflect": lambda: lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "F.pad replicate": lambda: lambda x: F.pad(x, (1, 2, 3, 1), mode="replicate"),
    "F.pad circular": lambda: lambda x: F.pad(x, (1, 2, 3, 1), mode="circular"),
    "F.pixel_shuffle": lambda: lambda x: F.pixel_shuffle(x, 2),
    "F.pixel_unshuffle": lambda: lambda x: F.pixel_unshuffle(x, 2),
    "F.channel_shuffle": lambda: lambda x: F.channel_shuffle(x, 4),
    "F.unfold": lambda: lambda x: F.unfold(x, 3, padding=1),
    "F.unfold, fold": lambda: lambda x: F.fold(F.unfold(x, 2, stride=2), (SIDE, SIDE), 2, stride=2),
    "Tensor.unfold": lambda: lambda x: x.unfold(3, 4, 2).flatten(3),
    "torch.roll": lambda: lambda x: torch.roll(x, (1, 2), (2, 3)),
    "torch.flip": lambda: lambda x: torch.flip(x, (1, 3)),
    "torch.rot90": lambda: lambda x: torch.rot90(x, 1, (2, 3)),
    "torch.tril": lambda: torch.tril,
    "torch.triu": lambda: lambda x: torch.triu(x, 1),
    "torch.diagonal": lambda: lambda x: torch.diagonal(x, 0, 2, 3),
    "torch.diag_embed": lambda: lambda x: torch.diag_embed(x.mean(3)),
    "torch.repeat_interleave": lambda: lambda x: torch.repeat_interleave(x, 2, 1),
    "Tensor.repeat": lambda: lambda x: x.repeat(1, 2, 1, 1),
    "torch.tile": lambda: lambda x: torch.tile(x, (1, 2, 1, 1)),
    "torch.take_along_dim": lambda: lambda x: torch.take_along_dim(x, x.argsort(1), 1),
    "torch.gather": lambda: lambda x: by_position(x, torch.gather, source=False),
    "torch.scatter": lambda: lambda x: by_position(x, torch.scatter),
    "torch.scatter_add": lambda: lambda x: by_position(x, torch.scatter_add),
    "scatter_reduce mean": lambda: lambda x: scattered(x, "mean"),
    "scatter_reduce sum": lambda: lambda x: scattered(x, "sum"),
    "scatter_reduce amax": lambda: lambda x: scattered(x, "amax"),
    "scatter_reduce prod": lambda: lambda x: scattered(x, "prod"),
    "torch.index_select": lambda: lambda x: torch.index_select(x, 1, torch.tensor([3, 1, 0])),
    "torch.index_add": lambda: lambda x: torch.index_add(x, 1, torch.tensor([3, 1]), x[:, :2]),
    "torch.index_copy": lambda: lambda x: torch.index_copy(x, 1, torch.tensor([3, 1]), x[:, :2]),
    "torch.index_fill": lambda: lambda x: torch.index_fill(x, 1, torch.tensor([3, 1]), 0.5),
    "torch.masked_fill": lambda: lambda x: x.masked_fill(x > 1, 0.0),
    "torch.masked_scatter": lambda: lambda x: x.masked_scatter(x > 0.5, x * 2),
    "torch.masked_select": lambda: lambda x: torch.masked_select(x, x > 0.5).sum() + x,
    "torch.where": lambda: lambda x: torch.where(x > 0, x, x.exp()),
    "torch.slice_scatter": lambda: lambda x: torch.slice_scatter(x, x[:, :2], 1, 2, 4),
    "torch.select_scatter": lambda: lambda x: torch.select_scatter(x, x[:, 0], 1, 2),
    "torch.meshgrid": lambda: lambda x: x + torch.stack(
        torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ).sum(0),
    "torch.tensor_split": lambda: lambda x: torch.cat(torch.tensor_split(x, 3, 1)[::-1], 1),
    "torch.unbind": lambda: lambda x: torch.stack(torch.unbind(x, 1)[::-1], 1),
    "torch.hstack": lambda: lambda x: torch.hstack([x, x * 2]),
    "torch.dstack": lambda: lambda x: torch.dstack([x, x * 2]),
    "torch.atleast_3d": lambda: torch.atleast_3d,
    "torch.cartesian_prod": lambda: lambda x: x
    + torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0)).sum(1).view(16, 16),
    # Writing.
    "empty_like, slices written": lambda: filled,
    "new_empty, slices written": lambda: filled_new,
    "zeros_like, window written": lambda: pasted,
    "zeros_like, shifted": lambda: shifted,
    "mask as an index, written": lambda: masked_assignment,
    "integer as an index, written": lambda: integer_assignment,
    "list as an index, written": lambda: index_assignment,
    "Tensor.copy_": lambda: lambda x: torch.empty_like(x).copy_(x * 2),
    "Tensor.fill_": lambda: lambda x: x + torch.empty_like(x).fill_(0.5),
    "Tensor.index_add_": lambda: lambda x: torch.zeros_like(x).index_add_(1, torch.tensor([3, 1]), x[:, :2]),
    "Tensor.masked_fill_": lambda: lambda x: x.clone().masked_fill_(x > 1, 0.0),
    "Tensor.scatter_": lambda: lambda x: torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 1.0) + x,
    "Tensor.clamp_": lambda: lambda x: (x * 2).clamp_(-1, 1),
    "Tensor.narrow, add_": lambda: lambda x: (lambda y: (y.narrow(1, 0, 2).add_(1), y)[1])(x.clone()),
    # Mathematics.
    **{
        f"torch.{name}": lambda name=name: getattr(torch, name)
        for name in _names(
            "abs exp exp2 expm1 square sin cos tan atan asinh sinh cosh erf erfc sigmoid sign floor ceil "
            "round trunc frac neg tanh sgn signbit positive nan_to_num i0 sinc digamma lgamma isnan "
            "isfinite deg2rad rad2deg "
        )
    },
    **{
        f"torch.{name}": lambda name=name: lambda x: getattr(torch, name)(x.abs() + 1.1)
        for name in _names(
            "log log2 log10 log1p sqrt rsqrt reciprocal acosh"
        )
    },
    **{
        f"torch.{name}": lambda name=name: lambda x: getattr(torch, name)(x.tanh() * 0.9)
        for name in _names(
            "asin acos atanh erfinv"
        )
    },
    "torch.clamp": lambda: lambda x: torch.clamp(x, -0.5, 0.5),
    "torch.pow": lambda: lambda x: x.abs().pow(1.5),
    "torch.float_power": lambda: lambda x: torch.float_power(x.abs(), 2).float(),
    "torch.fmod": lambda: lambda x: torch.fmod(x, 0.5),
    "torch.remainder": lambda: lambda x: torch.remainder(x, 0.5),
    "torch.floor_divide": lambda: lambda x: torch.floor_divide(x.detach(), 0.5),
    "torch.div floor": lambda: lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "torch.atan2": lambda: lambda x: torch.atan2(x, x + 1),
    "torch.hypot": lambda: lambda x: torch.hypot(x, x + 1),
    "torch.logaddexp": lambda: lambda x: torch.logaddexp(x, x + 1),
    "torch.copysign": lambda: lambda x: torch.copysign(x, x - 1),
    "torch.heaviside": lambda: lambda x: torch.heaviside(x.detach(), torch.tensor(0.5)),
    "torch.maximum": lambda: lambda x: torch.maximum(x, -x),
    "torch.fmax": lambda: lambda x: torch.fmax(x, -x),
    "torch.lerp": lambda: lambda x: torch.lerp(x, x.exp(), 0.3),
    "torch.addcmul": lambda: lambda x: torch.addcmul(x, x, x, value=0.5),
    "torch.addcdiv": lambda: lambda x: torch.addcdiv(x, x, x.exp(), value=0.5),
    "torch.xlogy": lambda: lambda x: torch.xlogy(x, x.exp()),
    "torch.nextafter": lambda: lambda x: torch.nextafter(x, x + 1),
    "torch.ldexp": lambda: lambda x: torch.ldexp(x, torch.tensor(2)),
    "torch.bucketize": lambda: lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
    "torch.searchsorted": lambda: lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x),
    "torch.logical_and": lambda: lambda x: torch.logical_and(x > 0, x < 1),
    "torch.bitwise_xor": lambda: lambda x: (x > 0) ^ (x < 1),
    "torch.isclose": lambda: lambda x: torch.isclose(x, x.round(), atol=0.1),
    # Reductions.
    **{
        f"torch.{name}": lambda name=name: lambda x: getattr(torch, name)(x, 3)
        for name in _names(
            "mean sum prod amax amin var std logsumexp cumsum cumprod logcumsumexp argmax argmin median mode "
            "sort argsort nansum nanmean cummax any all var_mean std_mean count_nonzero"
        )
    },
    "torch.aminmax": lambda: lambda x: torch.aminmax(x, dim=3).max,
    "torch.max": lambda: lambda x: torch.max(x, 1)[0],
    "torch.topk": lambda: lambda x: torch.topk(x, 3, 1)[0],
    "torch.kthvalue": lambda: lambda x: torch.kthvalue(x, 3, 1)[0],
    "torch.quantile": lambda: lambda x: torch.quantile(x, 0.3, 1),
    "torch.norm": lambda: lambda x: torch.norm(x, dim=1),
    "torch.linalg.vector_norm": lambda: lambda x: torch.linalg.vector_norm(x, 3, 1),
    "torch.renorm": lambda: lambda x: torch.renorm(x, 2, 0, 1.0),
    "torch.diff": lambda: lambda x: torch.diff(x, dim=3),
    "torch.trapezoid": lambda: lambda x: torch.trapezoid(x, dim=3),
    "torch.histc": lambda: lambda x: x + torch.histc(x, 8, -1, 1).sum(),
    "torch.unique": lambda: lambda x: x + torch.unique(x).sum(),
    "torch.nonzero": lambda: lambda x: x + torch.nonzero(x > 0).sum(),
    # Products.
    "torch.matmul": lambda: lambda x: torch.matmul(x, x.transpose(2, 3)),
    "torch.bmm": lambda: lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)),
    "torch.baddbmm": lambda: lambda x: torch.baddbmm(x[:, :, :8, 0], x.flatten(2), x.flatten(2).transpose(1, 2)),
    "torch.einsum": lambda: lambda x: torch.einsum("nchw,ndhw->ncd", x, x),
    "torch.tensordot": lambda: lambda x: torch.tensordot(x, torch.ones(SIDE, 5), 1),
    "torch.cross": lambda: lambda x: torch.linalg.cross(x[:, :3], x[:, 3:6], dim=1),
    "torch.cdist": lambda: lambda x: torch.cdist(x.flatten(2), x.flatten(2)),
    "torch.outer": lambda: lambda x: x * torch.outer(torch.arange(16.0), torch.arange(16.0)),
    "torch.kron": lambda: lambda x: torch.kron(x[:, :, :2, :2], torch.ones(2, 2)),
    "F.cosine_similarity": lambda: lambda x: F.cosine_similarity(x[:, :4], x[:, 4:], 1),
    "F.pairwise_distance": lambda: lambda x: F.pairwise_distance(x[:, :4], x[:, 4:]),
    "F.scaled_dot_product_attention": lambda: lambda x: F.scaled_dot_product_attention(x, x, x),
    "F.scaled_dot_product_attention causal": lambda: lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "nn.MultiheadAttention": lambda: OnTokens(nn.MultiheadAttention(CHANNELS, 2, batch_first=True), 3),
    "nn.TransformerEncoderLayer": lambda: OnTokens(nn.TransformerEncoderLayer(CHANNELS, 2, 16, batch_first=True)),
    "F.linear": lambda: lambda x: F.linear(x, torch.ones(5, SIDE)),
    "nn.Bilinear": lambda: OnTokens(nn.Bilinear(CHANNELS, CHANNELS, 6), 2),
    "F.bilinear": lambda: lambda x: F.bilinear(x, x, torch.ones(3, SIDE, SIDE)),
    "F.one_hot": lambda: lambda x: F.one_hot(x.argmax(1), CHANNELS).permute(0, 3, 1, 2),
    "F.embedding": lambda: lambda x: F.embedding(x.argmax(1), torch.arange(24.0).view(8, 3)),
    "nn.Linear on tokens": lambda: OnTokens(nn.Linear(CHANNELS, 4)),
    # Linear algebra.
    "torch.linalg.inv": lambda: lambda x: torch.linalg.inv(x + 9 * torch.eye(SIDE)),
    "torch.linalg.det": lambda: lambda x: torch.linalg.det(x + 2 * torch.eye(SIDE)),
    "torch.linalg.solve": lambda: lambda x: torch.linalg.solve(x + 9 * torch.eye(SIDE), x),
    "torch.linalg.svd": lambda: lambda x: torch.linalg.svd(x)[1],
    "torch.linalg.qr": lambda: lambda x: torch.linalg.qr(x)[1].abs(),
    "torch.linalg.eigh": lambda: lambda x: torch.linalg.eigh(x + x.mT)[0],
    "torch.linalg.cholesky": lambda: lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(SIDE)),
    "torch.linalg.matrix_norm": lambda: torch.linalg.matrix_norm,
    "torch.linalg.pinv": lambda: lambda x: torch.linalg.pinv(x),
    "torch.matrix_exp": lambda: lambda x: torch.matrix_exp(x * 0.1),
    "torch.trace": lambda: lambda x: x + torch.trace(torch.eye(3)),
    # Complex numbers.
    "torch.fft.fft2": lambda: lambda x: torch.view_as_real(torch.fft.fft2(x)).flatten(3),
    "torch.fft.rfft2, irfft2": lambda: lambda x: torch.fft.irfft2(torch.fft.rfft2(x)),
    "torch.fft.fftshift": lambda: lambda x: torch.fft.fftshift(x, (2, 3)),
    "torch.conj": lambda: lambda x: as_complex(x, lambda z: torch.conj(z).resolve_conj()),
    "torch.conj, product": lambda: lambda x: as_complex(x, lambda z: z * z.conj()),
    "torch.angle": lambda: lambda x: torch.complex(x, x.exp()).angle(),
    "Tensor.abs of complex": lambda: lambda x: torch.fft.rfft2(x).abs(),
    "Tensor.real": lambda: lambda x: torch.fft.rfft2(x).real,
    "Tensor.imag": lambda: lambda x: torch.fft.rfft2(x).imag,
    "torch.polar": lambda: lambda x: torch.view_as_real(torch.polar(x.abs(), x)).flatten(3),
    "torch.complex": lambda: lambda x: torch.view_as_real(torch.complex(x, -x)).flatten(3),
    "torch.view_as_complex": lambda: lambda x: torch.view_as_real(
        torch.view_as_complex(x.unflatten(3, (8, 2))) * torch.polar(torch.ones(8), torch.arange(8.0))
    ).flatten(3),
    # Convolutions.
    "F.conv2d on a fixed weight": lambda: lambda x: F.conv2d(x, torch.ones(4, CHANNELS, 3, 3), padding=1),
    "F.conv_transpose2d": lambda: lambda x: F.conv_transpose2d(x, torch.ones(CHANNELS, 4, 2, 2), stride=2),
    "nn.ConvTranspose2d, groups": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, 2, 1, 1, groups=2),
    "nn.Conv2d, same, circular": lambda: nn.Conv2d(CHANNELS, 6, 3, padding="same", padding_mode="circular"),
    "nn.Conv3d": lambda: nn.Sequential(nn.Unflatten(1, (1, CHANNELS)), nn.Conv3d(1, 2, 3, 1, 1), nn.Flatten(1, 2)),
    "convolution per sample": lambda: ConditionalConv(),
    "transposed convolution per sample": lambda: ConditionalConv(transposed=True),
    "correlation per sample": lambda: Correlation(),
    "nn.LSTM": lambda: Recurrent(nn.LSTM(CHANNELS, 5, batch_first=True)),
    "nn.LSTM, both directions": lambda: Recurrent(nn.LSTM(CHANNELS, 5, 2, batch_first=True, bidirectional=True)),
    "nn.GRU": lambda: Recurrent(nn.GRU(CHANNELS, 5, batch_first=True)),
    "nn.RNN": lambda: Recurrent(nn.RNN(CHANNELS, 5, batch_first=True)),
    # torchvision.
    "torchvision.ops.deform_conv2d": lambda: DeformConv(masked=False),
    "torchvision.ops.deform_conv2d, mask": lambda: DeformConv(masked=True),
    "torchvision.ops.deform_conv2d, groups": lambda: DeformConv(masked=True, groups=2),
    "torchvision.ops.roi_align": lambda: lambda x: torchvision.ops.roi_align(x, boxes(x), (4, 4)),
    "torchvision.ops.roi_align, aligned": lambda: lambda x: torchvision.ops.roi_align(
        x, boxes(x), (4, 4), 0.5, 2, aligned=True
    ),
    "torchvision.ops.roi_pool": lambda: lambda x: torchvision.ops.roi_pool(x, boxes(x), (4, 4)),
    "torchvision.ops.ps_roi_align": lambda: lambda x: torchvision.ops.ps_roi_align(x, boxes(x), (2, 2)),
    "torchvision.ops.ps_roi_pool": lambda: lambda x: torchvision.ops.ps_roi_pool(x, boxes(x), (2, 2)),
    "torchvision.ops.nms": lambda: lambda x: x
    + torchvision.ops.nms(x[0, 0, :, :4].abs() * torch.tensor([1, 1, 9, 9]), x[0, 0, :, 4], 0.5).sum(),
    "torchvision.ops.box_convert": lambda: lambda x: torchvision.ops.box_convert(
        x[:, :, 0, :4].reshape(-1, 4), "cxcywh", "xyxy"
    ).reshape(-1, 8, 4),
    "torchvision.ops.box_iou": lambda: lambda x: x
    + torchvision.ops.box_iou(x[0, :, 0, :4].abs(), x[0, :, 0, 4:8].abs()).mean(),
    "torchvision.ops.StochasticDepth": lambda: torchvision.ops.StochasticDepth(0.2, "row"),
    "torchvision.ops.DropBlock2d": lambda: torchvision.ops.DropBlock2d(0.2, 3),
    "torchvision.ops.SqueezeExcitation": lambda: torchvision.ops.SqueezeExcitation(CHANNELS, 4),
    "torchvision.ops.FrozenBatchNorm2d": lambda: torchvision.ops.FrozenBatchNorm2d(CHANNELS),
    "torchvision.ops.Permute": lambda: torchvision.ops.Permute([0, 2, 3, 1]),
    # Quantisation.
    "torch.fake_quantize_per_tensor_affine": lambda: lambda x: torch.fake_quantize_per_tensor_affine(
        x, 0.05, 0, -128, 127
    ),
    "torch.fake_quantize_per_channel_affine": lambda: lambda x: torch.fake_quantize_per_channel_affine(
        x, torch.full((CHANNELS,), 0.05), torch.zeros(CHANNELS, dtype=torch.int32), 1, -128, 127
    ),
    "torch.quantize_per_tensor": lambda: lambda x: torch.quantize_per_tensor(x, 0.05, 0, torch.qint8).dequantize(),
    # Types and what makes tensors.
    "Tensor.half": lambda: lambda x: x.half().float(),
    "Tensor.double": lambda: lambda x: (x.double() * 2).float(),
    "Tensor.long": lambda: lambda x: (x * 10).long(),
    "Tensor.byte": lambda: lambda x: (x.sigmoid() * 255).byte(),
    "Tensor.type_as": lambda: lambda x: (x > 0).type_as(x),
    "Tensor.new_full": lambda: lambda x: x + x.new_full((1, CHANNELS, 1, 1), 0.5),
    "Tensor.new_tensor": lambda: lambda x: x * x.new_tensor([0.5]),
    "torch.full_like": lambda: lambda x: x * torch.full_like(x, 0.5),
    "torch.ones": lambda: lambda x: x + torch.ones(x.shape[0], CHANNELS, 1, 1),
    "torch.linspace": lambda: lambda x: x * torch.linspace(0, 1, SIDE),
    "torch.eye": lambda: lambda x: x @ torch.eye(SIDE),
    "torch.hann_window": lambda: lambda x: x * torch.hann_window(SIDE),
    "torch.as_strided": lambda: lambda x: torch.as_strided(
        x, (x.shape[0], CHANNELS, 8, 8), (CHANNELS * 256, 256, 32, 2)
    ),
    "Tensor.view, dtype": lambda: lambda x: x.view(torch.int32).remainder(7).float(),
    "torch.broadcast_tensors": lambda: lambda x: torch.broadcast_tensors(x, x.new_zeros(1, CHANNELS, 1, 1))[1] + x,
    "torch.vmap": lambda: lambda x: torch.vmap(lambda y: y * 2)(x),
    # Random numbers.
    "torch.rand_like": lambda: lambda x: x + torch.rand_like(x),
    "torch.bernoulli": lambda: lambda x: torch.bernoulli(x.sigmoid()),
    "torch.normal": lambda: lambda x: torch.normal(x, 1.0),
    "torch.multinomial": lambda: lambda x: torch.multinomial(x.flatten(1).sigmoid(), 4),
    "torch.randperm": lambda: lambda x: x[:, torch.randperm(CHANNELS)],
    "torch.randn": lambda: lambda x: x + torch.randn(1, CHANNELS, 1, 1),
}
"""Name -> makes the operator: a function of the image, or a module."""
