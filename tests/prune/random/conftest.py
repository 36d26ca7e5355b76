"""The steps that random networks are made of: each reads earlier values and is a module."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Step = tuple[nn.Module, list[int]]
"""A module and the numbers of the values that it reads; no numbers where there is nothing to read."""


class Call(nn.Module):
    """A function as a step of the network; tracing goes through it."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)


class Scale(nn.Module):
    """A parameter that no layer owns."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class FunctionalConvolution(nn.Module):
    """Weights used without a layer: not gated, one copy a stream."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class ShuffledChannels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class PerPixel(nn.Module):
    """A linear layer on the last dimension, between two permutations."""

    def __init__(self, channels: int, outputs: int, norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x.permute(0, 2, 3, 1))).relu().permute(0, 3, 1, 2)


class Chosen:
    """What one step of a random program may choose from: earlier values, earlier layers, random numbers."""

    def __init__(self, seed: int, values: list[Tensor], layers: list[nn.Module]) -> None:
        self.rng, self.values, self.layers = random.Random(seed), values, layers

    def any_of(self, fits: Callable[[Tensor], bool]) -> list[int]:
        """A fitting value, the later the likelier; empty where there is none."""
        found = [i for i, v in enumerate(self.values) if fits(v)]
        return [found[-1 - min(int(self.rng.expovariate(1.0)), len(found) - 1)]] if found else []

    def map(self) -> list[int]:
        return self.any_of(lambda v: v.dim() == 4)

    def pair(self, alike: Callable[[Tensor, Tensor], bool]) -> list[int]:
        first = self.any_of(lambda v: True)
        second = self.any_of(lambda v: alike(self.values[first[0]], v))
        return first + second if second else []

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def flag(self) -> bool:
        return self.rng.random() < 0.5


def convolution(c: Chosen) -> Step:
    index = c.map()
    cin, cout = c.values[index[0]].shape[1], c.number(1, 6)
    size = c.rng.choice([1, 3])
    layer: nn.Module = nn.Conv2d(cin, cout, size, c.rng.choice([1, 1, 2]), size // 2, bias=c.flag())
    if c.number(0, 5) == 0:
        layer = nn.ConvTranspose2d(cin, cout, 2, 2)
    norms: list[Callable[[], nn.Module]] = [
        lambda: nn.BatchNorm2d(cout),
        lambda: nn.BatchNorm2d(cout),
        lambda: nn.GroupNorm(1, cout),
        lambda: nn.Identity(),
    ]
    return nn.Sequential(layer, c.rng.choice(norms)(), nn.ReLU(inplace=c.flag())), index


def grouped(c: Chosen) -> Step:
    index = c.map()
    channels = c.values[index[0]].shape[1]
    groups = channels if channels % 2 or c.flag() else 2
    layer = nn.Conv2d(channels, channels * c.number(1, 2), 3, padding=1, groups=groups)
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels)) if c.flag() else layer, index


def linear(c: Chosen) -> Step:
    index = c.any_of(lambda v: v.dim() == 2)
    if not index:
        return flatten(c)
    outputs = c.number(1, 6)
    layer = nn.Linear(c.values[index[0]].shape[1], outputs)
    norm = c.rng.choice([nn.BatchNorm1d, nn.LayerNorm, nn.Identity])(outputs)
    return nn.Sequential(layer, norm), index


def flatten(c: Chosen) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.mean((2, 3)),
        lambda x: x.mean(dim=[-1, -2], keepdim=True).flatten(1),
        lambda x: x.amax((-2, -1)),
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: x.flatten(2).sum(2),
    ]
    return Call(c.rng.choice(forms)), c.map()


def elementwise(c: Chosen) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [
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
        lambda x: x.abs().sqrt(),
        lambda x: F.leaky_relu(x, 0.1, inplace=False),
        lambda x: F.dropout(x, 0.3, training=False),
    ]
    layers: list[Callable[[], nn.Module]] = [nn.Hardswish, nn.Dropout, nn.Identity, nn.Tanh]
    index = c.any_of(lambda v: True)
    return (c.rng.choice(layers)() if c.number(0, 3) == 0 else Call(c.rng.choice(forms))), index


def written_in_place(c: Chosen) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.relu_(),
        lambda x: F.relu(x, inplace=True),
        lambda x: torch.relu_(x),
        lambda x: x.mul_(0.5),
    ]
    addresses = [v.untyped_storage().data_ptr() for v in c.values]
    alone = [i for i, address in enumerate(addresses) if i and addresses.count(address) == 1]
    return Call(c.rng.choice(forms)), alone[-1:]


def arithmetic(c: Chosen) -> Step:
    forms = [
        lambda a, b: a + b,
        lambda a, b: torch.add(a, b, alpha=2),
        lambda a, b: a * b,
        lambda a, b: a - b,
        lambda a, b: a.add(b),
        lambda a, b: torch.maximum(a, b),
        lambda a, b: torch.where(a > 0, a, b),
        lambda a, b: torch.lerp(a, b, 0.3),
    ]
    return Call(c.rng.choice(forms)), c.pair(lambda a, b: a.shape == b.shape)


def broadcast(c: Chosen) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
        lambda x: x * x.mean(1, keepdim=True),
        lambda x: x - x.mean(dim=(2, 3))[..., None, None],
        lambda x: x + F.adaptive_max_pool2d(x, 1),
        lambda x: x * x.flatten(1).mean(1)[:, None, None, None],
        lambda x: x.softmax(1),
        lambda x: x + x[:, :1],
    ]
    return Call(c.rng.choice(forms)), c.map()


def concatenation(c: Chosen) -> Step:
    forms = [
        lambda *x: torch.cat(x, 1),
        lambda *x: torch.cat([*x, x[0]], dim=1),
        lambda *x: torch.concat(x, dim=1 - x[0].dim()),
    ]
    pair = c.pair(lambda a, b: a.dim() == b.dim() and a.shape[2:] == b.shape[2:])
    return Call(c.rng.choice(forms)), pair


def pooling(c: Chosen) -> Step:
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
        lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", align_corners=False),
        lambda x: F.pad(x, (1, 0, 1, 0)),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
    ]
    layers: list[Callable[[], nn.Module]] = [
        lambda: nn.AvgPool2d(3, 1, 1),
        lambda: nn.MaxPool2d(3, 2, 1),
        lambda: nn.AdaptiveAvgPool2d(2),
        lambda: nn.Upsample(scale_factor=2),
    ]
    return (c.rng.choice(layers)() if c.flag() else Call(c.rng.choice(forms))), c.map()


def resized_like(c: Chosen) -> Step:
    def resize(a: Tensor, b: Tensor) -> Tensor:
        return F.interpolate(a, size=b.shape[-2:], mode="nearest")

    return Call(resize), c.pair(lambda a, b: a.dim() == b.dim() == 4)


def lone_norm(c: Chosen) -> Step:
    index = c.map()
    return nn.BatchNorm2d(c.values[index[0]].shape[1], affine=c.flag()), index


def opaque(c: Chosen) -> Step:
    index = c.map()
    channels = c.values[index[0]].shape[1]
    made: list[Callable[[], nn.Module]] = [
        lambda: Call(lambda x: x[:, : (channels + 1) // 2]),
        lambda: Call(lambda x: x.chunk(2, 1)[0]),
        lambda: Call(lambda x: torch.stack([x, x], 1).flatten(1, 2)),
        lambda: Call(lambda x: x.view(x.shape[0], 1, -1, x.shape[3])),
        lambda: Call(lambda x: x.reshape(-1, x.shape[1] * x.shape[2], 1, x.shape[3])),
        lambda: Call(lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2)),
        lambda: Call(lambda x: F.normalize(x, dim=1)),
        lambda: Call(lambda x: x.permute(0, 2, 3, 1)),
        lambda: Call(lambda x: x.flip(1)),
        lambda: Call(lambda x: x.cumsum(1)),
        lambda: FunctionalConvolution(channels),
        lambda: nn.InstanceNorm2d(channels, affine=True),
        lambda: nn.PReLU(channels),
        lambda: Scale((1, channels, 1, 1)),
        lambda: Scale((channels, 1, 1)),
        lambda: Scale(()),
        lambda: PerPixel(channels, c.number(1, 6), c.flag()),
        lambda: ShuffledChannels() if channels % 2 == 0 else nn.Softmax2d(),
    ]
    return c.rng.choice(made)(), index


def used_again(c: Chosen) -> Step:
    """An earlier layer on any value that it takes."""
    if not c.layers:
        return convolution(c)
    layer = c.rng.choice(c.layers)
    candidates = list(range(len(c.values)))
    c.rng.shuffle(candidates)
    for index in candidates:
        try:
            layer(c.values[index].clone())
        except (RuntimeError, ValueError, TypeError, IndexError):
            continue
        return layer, [index]
    return convolution(c)


def sequence(c: Chosen) -> Step:
    """Values of three dimensions: channels first or last."""
    index = c.any_of(lambda v: v.dim() == 3)
    if not index:
        return Call(c.rng.choice([lambda x: x.flatten(2), lambda x: x.flatten(2).transpose(1, 2)])), c.map()
    _, second, last = c.values[index[0]].shape
    forms: list[Callable[[], nn.Module]] = [
        lambda: nn.Sequential(nn.Conv1d(second, c.number(1, 6), 3, padding=1), nn.ReLU()),
        lambda: nn.Sequential(nn.Linear(last, c.number(1, 6)), nn.GELU()),
        lambda: nn.LayerNorm(last),
        lambda: nn.BatchNorm1d(second),
        lambda: nn.MaxPool1d(3, 1, 1),
        lambda: nn.MaxPool2d(3, 1, 1),
        lambda: nn.ZeroPad2d(1),
        lambda: Call(lambda x: x.transpose(1, 2)),
        lambda: Call(lambda x: x.mean(1)),
        lambda: Call(lambda x: x.mean(-1)),
        lambda: Call(lambda x: F.avg_pool1d(x, 3, 1, 1)),
        lambda: Call(lambda x: F.max_pool2d(x, 3, 1, 1)),
        lambda: Call(lambda x: F.adaptive_avg_pool2d(x, (x.shape[1], 2))),
        lambda: Call(lambda x: F.interpolate(x, scale_factor=2.0)),
        lambda: Call(lambda x: F.pad(x, (1, 1))),
        lambda: Call(lambda x: torch.cat([x, x * 2], 2)),
        lambda: Call(lambda x: torch.cat([x, x * 2], 1)),
        lambda: Call(lambda x: x * x.mean(1, keepdim=True)),
        lambda: Call(lambda x: x[..., None]),
    ]
    return c.rng.choice(forms)(), index


STEPS = [
    sequence, convolution, convolution, convolution, grouped, linear, flatten, elementwise, elementwise,
    written_in_place, arithmetic, arithmetic, broadcast, concatenation, pooling, resized_like, lone_norm, opaque,
    used_again,
]  # fmt: skip


def make_step(kind: int, seed: int, values: list[Tensor], layers: list[nn.Module]) -> Step:
    """One step for these values; kind -1 is a convolution."""
    make = convolution if kind < 0 else STEPS[kind % len(STEPS)]
    return make(Chosen(seed, values, layers))


@pytest.fixture(scope="session", name="make_step")
def _make_step() -> Callable[..., Step]:
    return make_step
