"""A network whose gates are cheap to count."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gate2static as g2s

TASKS = ("left", "right", "mask")


class Small(nn.Module):
    """Four convolutions with a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 32), (32, 32), (32, 32), (32, 48))
        self.units = nn.ModuleList(nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o)) for i, o in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.units[0](x).relu()
        x = (x + self.units[2](self.units[1](x).relu())).relu()
        return self.units[3](x).relu().mean((2, 3))


@pytest.fixture
def make() -> Callable[..., g2s.GatedModel]:
    """Makes a network whose α are drawn anew."""

    def gated(seed: int = 0, mean: float = 1.5, std: float = 1.0, **options: object) -> g2s.GatedModel:
        torch.manual_seed(seed)
        heads = {task: nn.Linear(48, 5) for task in TASKS}
        inputs = (torch.zeros(2, 3, 8, 8),)
        return g2s.gate(
            Small(), tasks=TASKS, example_inputs=inputs, heads=heads, gate_init=mean, gate_init_std=std, **options
        )

    return gated
