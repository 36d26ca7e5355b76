"""`gate` compares training to the end: gradients behind random layers, and what one step leaves for the next."""

import types

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import TraceError

X = torch.randn(2, 3, 8, 8)


class ScalesGradients(nn.Module):
    """Changes gradients in training, behind a layer that may draw random numbers."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.between = between
        self.last = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self.first(x))
        if self.training and y.requires_grad:
            y.register_hook(lambda gradient: 3 * gradient)
        return self.last(y)


class Counts(nn.Module):
    """Keeps a count outside of its own attributes and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.schedule = types.SimpleNamespace(steps=0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.conv(x)
        self.schedule.steps += 1
        return self.conv(x) * self.schedule.steps


@pytest.mark.parametrize(
    ("backbone", "differs"),
    [
        (ScalesGradients(nn.Identity()), "gradient"),
        (ScalesGradients(nn.Dropout(0.3)), "gradient"),
        (Counts(), "output 0"),
    ],
)
def test_what_only_a_second_look_shows_is_refused(backbone: nn.Module, differs: str) -> None:
    """Random layers hid other gradients, and state outside of the module hid other outputs in the second step."""
    heads = {task: nn.Conv2d(6, 2, 1) for task in ("a", "b")}
    with pytest.raises(TraceError, match=f"would not train as the backbone does: in training mode .*{differs}"):
        g2s.gate(backbone, tasks=list(heads), example_inputs=(X,), heads=heads)
