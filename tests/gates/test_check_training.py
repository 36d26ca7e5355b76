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


class TrainsBadly(nn.Module):
    """A layer that stays whole, since it reads `training`, and does something wrong there."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.fault == "raises":
            raise ValueError("no targets are given")
        return x / 0 if self.training else x


@pytest.mark.parametrize(
    ("fault", "found"),
    [("raises", r"does not run \(no targets are given\)"), ("is infinite", "returns numbers that are not finite")],
)
def test_a_comparison_that_is_impossible_is_told(fault: str, found: str) -> None:
    """The check was left out in silence, so that a network that trains otherwise would have passed."""
    backbone = nn.Sequential(nn.Conv2d(3, 6, 1), TrainsBadly(fault))
    with pytest.warns(UserWarning, match=f"is not known: in training mode the backbone {found} on the example") as told:
        g2s.gate(backbone, tasks=["a"], example_inputs=(X,), heads={"a": nn.Conv2d(6, 2, 1)})
    assert [warning.filename for warning in told] == [__file__]


class InsistsOnFloat32(ScalesGradients):
    """Changes gradients, and runs in one type only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected float32")
        return super().forward(x)


def test_a_difference_counts_where_float64_is_impossible() -> None:
    """A second look in float64 that failed took the difference back."""
    backbone = InsistsOnFloat32(nn.Identity())
    with pytest.raises(TraceError, match="would not train as the backbone does: in training mode the gradient of"):
        g2s.gate(backbone, tasks=["a"], example_inputs=(X,), heads={"a": nn.Conv2d(6, 2, 1)})
