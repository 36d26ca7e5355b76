"""Steps on values of any number of dimensions, on vectors (N, C), and on layers that are used more than once."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.prune.random.steps import Call, Chosen, DoesNotFitError, Form, Step


def vector_linear(c: Chosen) -> Step:
    index, (_, channels) = c.of_dim(2)
    outputs = c.number(1, 6)
    norm = c.one_of([nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm, nn.Identity])(outputs)
    return nn.Sequential(nn.Linear(channels, outputs, bias=c.flag()), norm, c.activation()), [index]


def vector(c: Chosen) -> Step:
    """What else there is to do with (N, C)."""
    index, (_, channels) = c.of_dim(2)
    groups = c.divisor(channels)
    forms: list[Form] = [
        lambda x: x[:, :, None, None].expand(-1, -1, 3, 3),
        lambda x: x.unsqueeze(1).repeat(1, 3, 1),
        lambda x: x.view(x.shape[0], groups, -1).softmax(1),
        lambda x: x.unflatten(1, (-1, groups)).sum(1),
        lambda x: F.normalize(x, dim=1) * 3,
        lambda x: x.softmax(dim=-1),
        lambda x: x[:, None] * x[:, :, None],
        lambda x: F.layer_norm(x, (channels,)),
    ]
    return Call(c.one_of(forms)), [index]


def flattening(c: Chosen) -> Step:
    index, _ = c.of_dim(4)
    forms: list[Form] = [
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.reshape(x.size(0), -1),
        lambda x: x.mean((2, 3)),
        lambda x: x.mean(dim=[-1, -2], keepdim=True).flatten(1),
        lambda x: x.amax((-2, -1)),
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: F.adaptive_max_pool2d(x, 1).squeeze(-1).squeeze(-1),
        lambda x: x.flatten(2).sum(2),
        lambda x: x.flatten(2).std(2),
    ]
    return Call(c.one_of(forms)), [index]


def elementwise(c: Chosen) -> Step:
    forms: list[Form] = [
        F.relu,
        lambda x: F.gelu(x),
        torch.sigmoid,
        lambda x: 1 - x,
        lambda x: 2 * x + 0.5,
        lambda x: x / 2,
        lambda x: x.clamp(-1, 1),
        lambda x: -x,
        lambda x: x * x,
        lambda x: x + x,
        lambda x: (x.abs() + 0.1).sqrt(),
        lambda x: F.leaky_relu(x, 0.1, inplace=False),
        lambda x: F.dropout(x, 0.3, training=False),
        lambda x: x.contiguous().clone(),
    ]
    layers = [nn.Hardswish(), nn.Dropout(), nn.Identity(), nn.Tanh(), nn.Softplus()]
    index = c.value(lambda v: True)
    return (c.one_of(layers) if c.number(0, 3) == 0 else Call(c.one_of(forms))), [index]


def written_in_place(c: Chosen) -> Step:
    forms: list[Form] = [
        lambda x: x.relu_(),
        lambda x: F.relu(x, inplace=True),
        lambda x: torch.relu_(x),
        lambda x: x.mul_(0.5),
        lambda x: x.add_(x),
    ]
    alone = c.alone()
    if not alone:
        raise DoesNotFitError
    return Call(c.one_of(forms)), alone[-1:]


def arithmetic(c: Chosen) -> Step:
    forms: list[Form] = [
        lambda a, b: a + b,
        lambda a, b: torch.add(a, b, alpha=2),
        lambda a, b: a * b,
        lambda a, b: a - b,
        lambda a, b: a.add(b),
        lambda a, b: torch.maximum(a, b),
        lambda a, b: torch.where(a > 0, a, b),
        lambda a, b: torch.lerp(a, b, 0.3),
        lambda a, b: torch.stack([a, b]).mean(0),
        lambda a, b: torch.stack([a, b], 1).sum(1),
        lambda a, b: torch.stack([a, b], -1).unbind(-1)[1] + a,
    ]
    return Call(c.one_of(forms)), c.pair(lambda a, b: a.shape == b.shape)


def broadcasting(c: Chosen) -> Step:
    """Two values whose shapes differ and still fit, such as a map and one value a channel."""

    def alike(a: Tensor, b: Tensor) -> bool:
        same = all(m == n or n == 1 for m, n in zip(a.shape, b.shape, strict=False))
        return a.dim() == b.dim() and same

    return Call(c.one_of([torch.add, torch.mul, lambda a, b: a - b])), c.pair(alike)


def concatenation(c: Chosen) -> Step:
    forms: list[Form] = [
        lambda *x: torch.cat(x, 1),
        lambda *x: torch.cat([*x, x[0]], dim=1),
        lambda *x: torch.concat(x, dim=1 - x[0].dim()),
        lambda *x: torch.cat([x[0][:, :1], *x], 1),
    ]
    return Call(c.one_of(forms)), c.pair(lambda a, b: a.dim() == b.dim() and a.shape[2:] == b.shape[2:])


def parts(c: Chosen) -> Step:
    """Cut, turned, stacked and put together along any dimension but the batch."""
    index = c.value(lambda v: True)
    shape = c.values[index].shape
    dim = c.number(1, len(shape) - 1)
    size, rows = shape[dim], (slice(None),) * dim
    first = c.number(1, size)
    forms: list[Form] = [
        lambda x: torch.cat(x.chunk(2, dim)[::-1], dim),
        lambda x: x.chunk(2, dim)[0],
        lambda x: x.chunk(3, dim)[-1],
        lambda x: torch.cat([x.split(1, dim)[-1], x.split(1, dim)[0]], dim),
        lambda x: torch.cat([x.split([first, size - first], dim)[0].relu(), x], dim),
        lambda x: torch.cat(torch.tensor_split(x, 2, dim), dim),
        lambda x: x.unbind(dim)[-1],
        lambda x: torch.stack([x.select(dim, 0), x.select(dim, -1)], dim),
        lambda x: torch.stack(x.unbind(dim)[::-1], dim),
        lambda x: torch.stack([x, 2 * x], 1).flatten(1, 2),
        lambda x: torch.stack([x, 2 * x], dim + 1).flatten(dim, dim + 1),
        lambda x: torch.stack([x, 2 * x], -1).flatten(-2),
        lambda x: x.narrow(dim, 0, first),
        lambda x: x.narrow(dim, size - first, first),
        lambda x: x[(*rows, slice(0, None, 2))],
        lambda x: x[(*rows, slice(1, None, 2))],
        lambda x: torch.cat([x[(*rows, slice(0, None, 2))], x[(*rows, slice(1, None, 2))]], dim),
        lambda x: x[(*rows, slice(-first, None))],
        lambda x: x.flip(dim),
        lambda x: x.roll(1, dim),
        lambda x: torch.roll(x, shifts=-2, dims=dim - x.dim()),
        lambda x: torch.cat([x[(*rows, slice(first, None))], x[(*rows, slice(0, first))]], dim),
        lambda x: F.glu(x, dim),
        lambda x: x.chunk(2, dim)[0] * x.chunk(2, dim)[1].sigmoid(),
        lambda x: x.repeat_interleave(2, dim),
        lambda x: torch.cat([x, x], dim),
        lambda x: x.index_select(dim, torch.tensor([0, size - 1, 0])),
        lambda x: x.softmax(dim),
        lambda x: x.sum(dim, keepdim=True) - x,
        lambda x: x.unsqueeze(dim).squeeze(dim),
        lambda x: x.transpose(1, dim),
        lambda x: x.movedim(dim, -1),
    ]
    return Call(c.one_of(forms)), [index]


def numpy_names(c: Chosen) -> Step:
    """Torch's other names for functions and arguments, along any dimension but the batch."""
    pair = c.pair(lambda a, b: a.shape == b.shape)
    axis = c.number(1, c.values[pair[0]].dim() - 1)
    forms: list[Form] = [
        lambda a, b: torch.cat([a, b], axis=axis),
        lambda a, b: torch.concatenate([a, b], axis=axis - a.dim()),
        lambda a, b: torch.hstack([a, b]),
        lambda a, b: torch.stack([a, b], axis=axis).flatten(axis, axis + 1),
        lambda a, b: a.mean(axis=axis, keepdims=True) * torch.sum(b, axis=axis, keepdims=True),
        lambda a, b: torch.multiply(a, b).subtract(b).divide(2).clip(-3, 3),
        lambda a, b: torch.cat([a.softmax(axis=axis), torch.chunk(b, 2, axis=axis)[0]], axis=axis),
        lambda a, b: a.swapaxes(1, axis) + torch.swapaxes(b, 1, axis),
    ]
    return Call(c.one_of(forms)), pair


def used_again(c: Chosen) -> Step:
    """An earlier layer on any value that it takes."""
    if not c.layers:
        raise DoesNotFitError
    layer = c.one_of(c.layers)
    candidates = list(range(len(c.values)))
    c.rng.shuffle(candidates)
    alone = c.alone()
    for index in candidates:
        value = -c.values[index].abs() - 1  # an in-place activation changes it
        try:
            layer(written := value.clone())
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            continue
        if index in alone or torch.equal(value, written):
            return layer, [index]
    raise DoesNotFitError


def tied(c: Chosen) -> Step:
    """Layers that share one weight."""
    index = c.value(lambda v: v.dim() in (2, 3, 4))
    shape = c.values[index].shape
    if len(shape) == 4:
        first: nn.Module = nn.Conv2d(shape[1], shape[1], 1)
        second: nn.Module = nn.Conv2d(shape[1], shape[1], 1, bias=c.flag())
    else:
        first, second = nn.Linear(shape[-1], shape[-1]), nn.Linear(shape[-1], shape[-1], bias=c.flag())
    second.weight = first.weight
    forms: list[Form] = [lambda x, a, b: b(a(x).relu()), lambda x, a, b: torch.cat([a(x), b(x)], 1)]
    return Call(c.one_of(forms), first, second), [index]


class Untraceable(nn.Module):
    """Owns a parameter and loops over a size; torch.fx keeps it whole because it behaves differently in training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = [x[:, k] * self.weight[k] for k in range(x.shape[1])]
        return torch.stack(rows, 1) if not self.training else x


def untraceable(c: Chosen) -> Step:
    index = c.value(lambda v: v.shape[1] <= 12)
    return Untraceable(c.values[index].shape[1]), [index]


STEPS = [
    elementwise, elementwise, written_in_place, arithmetic, arithmetic, broadcasting, concatenation, parts, parts,
    parts, used_again, tied, untraceable, vector_linear, vector_linear, vector, flattening,
    numpy_names,
]  # fmt: skip
