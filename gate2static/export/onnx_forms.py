"""Operators that ONNX or torch's table of translations lacks, written in operators that it has.

A form takes the operator's own arguments. What an operator returns besides, such as the indices of a maximum, has no
form, so a form returns only what has one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from gate2static.export.forms.convolutions import convolution_by_sample, transposed_convolution_by_sample
from gate2static.export.forms.pooling import adaptive_average_pool, adaptive_maximum_pool, average_pool, maximum_pool

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.conv1d.default: 1, _aten.conv2d.default: 2, _aten.conv3d.default: 3}
_TRANSPOSED = {_aten.conv_transpose1d.default: 1, _aten.conv_transpose2d.input: 2, _aten.conv_transpose3d.input: 3}
_GROUPS_POSITION = 6
"""Where the number of groups stands among the arguments of convolutions; one later in transposed ones of old."""


def form_of(node: fx.Node) -> Callable[..., Any] | None:
    """Returns how the call of a node is written in other operators, or None for calls that have no form here.

    Args:
        node: A node that calls an operator.
    """
    target: Any = node.target
    if target in _CONVOLUTIONS or target in _TRANSPOSED:
        return _convolution_form(node)
    is_sum = target is _aten.scatter_reduce.two and node.args[4:5] != ("mean",)
    is_plain = target in _CEILING and not (_argument(node, _CEILING[target], "ceil_mode") or _divisor(node))
    return None if is_sum or is_plain else FORMS.get(target)


def _divisor(node: fx.Node) -> Any:
    return _argument(node, 6, "divisor_override")


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _convolution_form(node: fx.Node) -> Callable[..., Any] | None:
    """Returns the form of a convolution whose groups follow the batch; ONNX wants their number."""
    groups = node.args[_GROUPS_POSITION] if len(node.args) > _GROUPS_POSITION else node.kwargs.get("groups", 1)
    if not isinstance(groups, fx.Node):
        return None
    return convolution_by_sample if node.target in _CONVOLUTIONS else transposed_convolution_by_sample


# Shapes, types and attention


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> Sequence[Tensor]:
    """Cuts the batch into equal parts by slices: ONNX's tools know no other part of what has no fixed size."""
    if dim % x.ndim or x.shape[0] % chunks:
        return torch.chunk(x, chunks, dim)
    size = x.shape[0] // chunks
    return [x.narrow(0, number * size, size) for number in range(chunks)]


def _split(x: Tensor, split_size: int, dim: int = 0) -> Sequence[Tensor]:
    """Cuts the batch as `_chunk` does."""
    if dim % x.ndim or x.shape[0] % split_size:
        parts: Sequence[Tensor] = _aten.split.Tensor(x, split_size, dim)
        return parts
    return _chunk(x, x.shape[0] // split_size)


def _flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    if not x.ndim:
        return x.reshape(1)
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def _unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    dim %= x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def _movedim(x: Tensor, source: int, destination: int) -> Tensor:
    if not x.ndim:
        return x
    order = list(range(x.ndim))
    order.insert(destination % x.ndim, order.pop(source))
    return x.permute(order)


def cast(x: Tensor, dtype: torch.dtype, *_: Any, **__: Any) -> Tensor:
    """Returns a tensor in another dtype, always a copy: `Tensor.to`, which may be none, is a composite."""
    copied: Tensor = _aten._to_copy.default(x, dtype=dtype)
    return copied


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Scaled dot-product attention (…, tokens, width) with any leading dimensions, made (batch, heads)."""
    leading = query.shape[:-2]
    if len(leading) == 2:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs)

    def with_two(x: Tensor) -> Tensor:
        return x.expand(*leading, *x.shape[-2:]).reshape(-1, leading[-1] if len(leading) > 2 else 1, *x.shape[-2:])

    mask = None if attn_mask is None else with_two(attn_mask)
    attended = F.scaled_dot_product_attention(with_two(query), with_two(key), with_two(value), mask, *args, **kwargs)
    return attended.reshape(*leading, *attended.shape[-2:])


# Reductions and mathematics


def _scatter_mean(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Puts the mean of all elements with one index at its place."""
    counts = torch.zeros_like(x).scatter_add(dim, index, torch.ones_like(src))
    start = x if include_self else torch.where(counts > 0, torch.zeros_like(x), x)
    return start.scatter_add(dim, index, src) / (counts + 1 if include_self else counts.clamp(min=1))


def _running(combine: Callable[[Tensor, Tensor], Tensor], neutral: float) -> Callable[..., Tensor]:
    """Makes the form of an operator that combines all elements up to each position: in log₂ steps."""

    def form(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
        x = x if dtype is None else _aten._to_copy.default(x, dtype=dtype)
        size = x.shape[dim]
        after = x.dim() - dim % x.dim() - 1
        step = 1
        while step < size:
            shifted = F.pad(x.narrow(dim, 0, size - step), [0, 0] * after + [step, 0], value=neutral)
            x = combine(x, shifted)
            step *= 2
        return x

    return form


def _smallest(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = torch.topk(x, k, dim, largest=False)
    last = [x.narrow(dim, k - 1, 1) for x in (values, indices)]
    first, second = last if keepdim else [x.squeeze(dim) for x in last]
    return first, second


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Returns the lower one of two middle elements, as torch does."""
    return _smallest(x, (x.shape[dim] - 1) // 2 + 1, dim, keepdim)


def _running_values(combine: Callable[[Tensor, Tensor], Tensor], neutral: float) -> Callable[..., tuple[Tensor]]:
    form = _running(combine, neutral)
    return lambda x, dim: (form(x, dim),)


def _is_negative(x: Tensor) -> Tensor:
    """Returns where a sign is set, also that of zero."""
    return (x < 0) | ((x == 0) & (1 / x < 0)) if x.is_floating_point() else x < 0


def _copysign(x: Tensor, sign: Any) -> Tensor:
    of = sign if isinstance(sign, Tensor) else torch.full_like(x, sign)
    return torch.where(_is_negative(of), -x.abs(), x.abs())


def _distances(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Returns the distances of all pairs of rows."""
    difference = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 0:
        differs: Tensor = _aten._to_copy.default(difference > 0, dtype=a.dtype)
        return differs.sum(-1)
    if math.isinf(p):
        return difference.amax(-1)
    powers = difference * difference if p == 2 else difference if p == 1 else difference**p
    summed = powers.sum(-1)
    if p == 1:
        return summed
    if p == 2:
        return summed.sqrt()
    roots: Tensor = summed.pow(1 / p)
    return roots


def _searchsorted(
    sorted_sequence: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Counts the elements of a sorted sequence that are smaller."""
    if sorter is not None:
        sorted_sequence = sorted_sequence.gather(-1, sorter)
    bounds = sorted_sequence if sorted_sequence.dim() == 1 else sorted_sequence.unsqueeze(-2)
    is_below = bounds <= x.unsqueeze(-1) if right or side == "right" else bounds < x.unsqueeze(-1)
    dtype = torch.int32 if out_int32 else torch.int64
    numbers: Tensor = _aten._to_copy.default(is_below, dtype=dtype)
    return numbers.sum(-1, dtype=dtype)


def _conjugate(x: Tensor) -> Tensor:
    if not x.is_complex():
        return x
    real = torch.view_as_real(x)
    return torch.view_as_complex(real * torch.tensor([1.0, -1.0], dtype=real.dtype))


def _variance(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    dims = list(dim) if dim else list(range(x.dim()))
    count = math.prod(x.shape[d] for d in dims)
    squares = (x - x.mean(dims, keepdim=True)).square()
    return squares.sum(dims, keepdim) / (count - (1 if correction is None else correction))


def _deviation(*args: Any, **kwargs: Any) -> Tensor:
    return _variance(*args, **kwargs).sqrt()


def _variance_and_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = list(dim) if dim else list(range(x.dim()))
    return _variance(x, dim, correction=correction, keepdim=keepdim), x.mean(dims, keepdim)


def _deviation_and_mean(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    variance, mean = _variance_and_mean(*args, **kwargs)
    return variance.sqrt(), mean


def _quantile(
    x: Tensor, q: float, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    along = x.flatten() if dim is None else x
    at = 0 if dim is None else dim
    ordered = torch.sort(along, at)[0]
    place = q * (along.shape[at] - 1)
    low, high = math.floor(place), math.ceil(place)
    nearest = round(place)
    weight = {"lower": 0.0, "higher": 1.0, "midpoint": 0.5, "nearest": float(nearest != low)}.get(interpolation)
    first, last = ordered.narrow(at, low, 1), ordered.narrow(at, high, 1)
    quantile = first + (last - first) * (place - low if weight is None else weight)
    if dim is None:
        return quantile.reshape([1] * x.dim() if keepdim else [])
    return quantile if keepdim else quantile.squeeze(at)


def _mean_without_nan(
    x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    x = x if dtype is None else cast(x, dtype)
    dims = list(dim) if dim else list(range(x.dim()))
    is_missing = torch.isnan(x)
    numbers = torch.where(is_missing, torch.zeros_like(x), x)
    present = torch.where(is_missing, torch.zeros_like(x), torch.ones_like(x))
    return numbers.sum(dims, keepdim) / present.sum(dims, keepdim)


def _angle(x: Tensor) -> Tensor:
    if not x.is_complex():
        return torch.where(x < 0, torch.full_like(x, math.pi), torch.zeros_like(x))
    real, imaginary = torch.view_as_real(x).unbind(-1)
    return torch.atan2(imaginary, real)


def _scaled_by_powers(x: Tensor, exponents: Tensor) -> Tensor:
    powers: Tensor = _aten._to_copy.default(exponents, dtype=x.dtype)
    return x * torch.exp2(powers)


def _bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    return _searchsorted(boundaries, x, out_int32=out_int32, right=right)


def _hypotenuse(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt()


def _larger(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.maximum(x, y)))


def _smaller(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(torch.isnan(x), y, torch.where(torch.isnan(y), x, torch.minimum(x, y)))


def _rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    added = torch.finfo(x.dtype).eps if eps is None else eps
    normed = x * torch.rsqrt((x * x).mean(dims, keepdim=True) + added)
    return normed if weight is None else normed * weight


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    n = max(a.dim(), b.dim())
    rows = [1] * (n - a.dim()) + [*a.shape]
    columns = [1] * (n - b.dim()) + [*b.shape]
    spread = a.reshape([size for pair in zip(rows, [1] * n, strict=True) for size in pair])
    repeated = b.reshape([size for pair in zip([1] * n, columns, strict=True) for size in pair])
    return (spread * repeated).reshape([i * j for i, j in zip(rows, columns, strict=True)])


_CEILING = {
    _aten.avg_pool1d.default: 4,
    _aten.avg_pool2d.default: 4,
    _aten.avg_pool3d.default: 4,
    _aten.max_pool1d.default: 5,
    _aten.max_pool2d.default: 5,
    _aten.max_pool3d.default: 5,
}
"""Pooling -> the position of its argument `ceil_mode`."""

FORMS: dict[Any, Callable[..., Any]] = {
    _aten.avg_pool1d.default: average_pool,
    _aten.avg_pool2d.default: average_pool,
    _aten.avg_pool3d.default: average_pool,
    _aten.max_pool1d.default: maximum_pool(1),
    _aten.max_pool2d.default: maximum_pool(2),
    _aten.max_pool3d.default: maximum_pool(3),
    _aten.chunk.default: _chunk,
    _aten.split.Tensor: _split,
    _aten.flatten.using_ints: _flatten,
    _aten.movedim.int: _movedim,
    _aten.unflatten.int: _unflatten,
    _aten.to.dtype: cast,
    _aten.scaled_dot_product_attention.default: _attention,
    _aten.adaptive_avg_pool1d.default: adaptive_average_pool,
    _aten.adaptive_avg_pool2d.default: adaptive_average_pool,
    _aten.adaptive_avg_pool3d.default: adaptive_average_pool,
    _aten.adaptive_max_pool1d.default: adaptive_maximum_pool,
    _aten.adaptive_max_pool2d.default: adaptive_maximum_pool,
    _aten.adaptive_max_pool3d.default: adaptive_maximum_pool,
    _aten.scatter_reduce.two: _scatter_mean,
    _aten.cumprod.default: _running(torch.mul, 1.0),
    _aten.cummax.default: _running_values(torch.maximum, -math.inf),
    _aten.cummin.default: _running_values(torch.minimum, math.inf),
    _aten.median.dim: _median,
    _aten.kthvalue.default: _smallest,
    _aten.signbit.default: _is_negative,
    _aten.copysign.Tensor: _copysign,
    _aten.copysign.Scalar: _copysign,
    _aten.cdist.default: _distances,
    _aten._cdist_forward.default: _distances,
    _aten.searchsorted.Tensor: _searchsorted,
    _aten.conj_physical.default: _conjugate,
    _aten.var.correction: _variance,
    _aten.std.correction: _deviation,
    _aten.var_mean.correction: _variance_and_mean,
    _aten.std_mean.correction: _deviation_and_mean,
    _aten.quantile.scalar: _quantile,
    _aten.nanmean.default: _mean_without_nan,
    _aten.angle.default: _angle,
    _aten.ldexp.Tensor: _scaled_by_powers,
    _aten.bucketize.Tensor: _bucketize,
    _aten.hypot.default: _hypotenuse,
    _aten.fmax.default: _larger,
    _aten.fmin.default: _smaller,
    _aten.rms_norm.default: _rms_norm,
    _aten.kron.default: _kronecker,
}
"""Operator -> its form."""
