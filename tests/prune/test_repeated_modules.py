"""A module that is called more than once is one module of the static network only where nothing about it differs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.gates import gate
from tests import zoo


class OneSoftmax(nn.Module):
    """The same softmax on channels first and on heads, whose physical tensors have other dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.keys, self.out = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 12), nn.Linear(12, 5)
        self.softmax = nn.Softmax(dim=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.patches(x).flatten(2)
        tokens = self.keys(maps.transpose(1, 2)).reshape(x.shape[0], -1, 3, 4).transpose(1, 2)
        return self.softmax(maps) * maps, self.out(self.softmax(tokens).transpose(1, 2).flatten(2)).transpose(1, 2)


class OneNorm(nn.Module):
    """The same norm without parameters on two layers, of which other groups stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(4, 5, 1)
        self.norm = nn.GroupNorm(4, 8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.out(self.norm(self.second(x))[:, :4])


@pytest.mark.parametrize("backbone", [OneSoftmax, OneNorm])
@pytest.mark.parametrize("seed", range(3))
def test_settings_that_differ_between_calls_stay_apart(backbone: type[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    network, x = backbone().eval(), torch.randn(2, 3, 8, 8)
    features = network(x)
    width = sum(f.shape[1] for f in features) if isinstance(features, tuple) else features.shape[1]
    heads = {task: Averaged(width) for task in ("a", "b")}
    gated = zoo.randomise(gate(network, tasks=["a", "b"], example_inputs=(x,), heads=heads), 0.3)
    zoo.check_exact(gated.double(), x.double())


class Averaged(nn.Module):
    """A linear layer on the means of all features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 3)

    def forward(self, features: Any) -> Tensor:
        leaves = features if isinstance(features, list | tuple) else [features]
        return self.linear(torch.cat([leaf.flatten(2).mean(2) for leaf in leaves], 1))
