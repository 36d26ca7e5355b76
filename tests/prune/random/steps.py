"""What the steps of random networks share. A step reads earlier values of the network and is a module."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Step = tuple[nn.Module, list[int]]
"""A module and the numbers of the values that it reads."""

Form = Callable[..., Tensor]


class DoesNotFitError(Exception):
    """No earlier value has what a step needs; the network is built without the step."""


class Call(nn.Module):
    """A function as a step; it gets the step's layers after the values."""

    def __init__(self, function: Form, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values, *self.layers)


class Owned(nn.Module):
    """A parameter that no layer owns, as the last argument of a function."""

    def __init__(self, function: Form, *shape: int) -> None:
        super().__init__()
        self.function, self.parameter = function, nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values, self.parameter)


class Chosen:
    """What one step may choose from: earlier values, earlier layers, random numbers."""

    def __init__(self, seed: int, values: Sequence[Tensor], layers: Sequence[nn.Module]) -> None:
        self.rng, self.values, self.layers = random.Random(seed), values, layers

    def value(self, fits: Callable[[Tensor], bool]) -> int:
        """A fitting value, the later the likelier."""
        found = [i for i, v in enumerate(self.values) if fits(v)]
        if not found:
            raise DoesNotFitError
        return found[-1 - min(int(self.rng.expovariate(1.0)), len(found) - 1)]

    def of_dim(self, *dims: int) -> tuple[int, torch.Size]:
        """A value of one of these numbers of dimensions, and its shape."""
        index = self.value(lambda v: v.dim() in dims)
        return index, self.values[index].shape

    def pair(self, alike: Callable[[Tensor, Tensor], bool]) -> list[int]:
        """Two values; the same twice where no other fits."""
        first = self.value(lambda v: alike(v, v))
        others = [i for i, v in enumerate(self.values) if i != first and alike(self.values[first], v)]
        return [first, self.one_of(others) if others else first]

    def alone(self) -> list[int]:
        """Values that may be written into: none is the network's input, and none shares memory with another."""
        addresses = [v.untyped_storage().data_ptr() for v in self.values]
        return [i for i, address in enumerate(addresses) if i and addresses.count(address) == 1]

    def one_of(self, options: Sequence[Any]) -> Any:
        return self.rng.choice(options)

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def divisor(self, number: int) -> int:
        """A number of groups other than 1 and, where possible, other than `number` itself."""
        found = [k for k in range(2, number) if number % k == 0]
        return self.one_of(found) if found else number

    def norm(self, channels: int, dims: int = 2) -> nn.Module:
        """What may follow a convolution."""
        batch = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dims]
        instance = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d}[dims]
        made: list[Callable[[], nn.Module]] = [
            lambda: batch(channels),
            lambda: batch(channels),
            lambda: batch(channels, affine=False),
            nn.Identity,
            nn.Identity,
            lambda: nn.GroupNorm(1, channels),
            lambda: nn.GroupNorm(self.divisor(channels), channels),
            lambda: instance(channels, affine=self.flag(), track_running_stats=self.flag()),
        ]
        return self.one_of(made)()

    def activation(self) -> nn.Module:
        made = [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Identity, nn.Tanh, lambda: nn.ReLU(inplace=True)]
        return self.one_of(made)()
