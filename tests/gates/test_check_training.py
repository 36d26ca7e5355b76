"""A gated network trains as its backbone does, and `gate` notices where it would not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import gate2static as g2s
from gate2static.errors import TraceError
from gate2static.gates import check_training
from gate2static.program.rewrites.training_reads import random_state
from tests.program.tracing import gated

IMAGES = torch.randn(2, 3, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


class WarmsUp(Net):
    """Counts its calls, and depends on how many there were in training."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return super().forward(x) * (self.calls / 10 if self.training else 1.0)


class SecondCall(Net):
    """Does something else in its second call in training."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(x) * (2 if self.calls == 2 else 1)


@pytest.mark.parametrize("backbone", [WarmsUp, SecondCall])
def test_what_follows_from_earlier_calls_is_refused(backbone: type[nn.Module]) -> None:
    """A count of calls used to be fixed at its first value."""
    with pytest.raises(TraceError, match="would not train as the backbone does: in training mode output 0 differs"):
        gated(backbone().eval(), IMAGES)


def other_momentum(network: fx.GraphModule) -> None:
    network.get_submodule("norm").momentum = 0.5  # type: ignore[assignment]  # a number


def other_gradient(network: fx.GraphModule) -> None:
    network.get_submodule("norm").register_forward_pre_hook(lambda _, inputs: (2 * inputs[0] - inputs[0].detach(),))


def other_dropout(network: fx.GraphModule) -> None:
    network.add_module("last", nn.Sequential(nn.Dropout(0.5), network.get_submodule("last")))


PLANTS = {
    "the buffer 'norm.running_mean' differs": other_momentum,
    "the gradient of 'first.weight' differs": other_gradient,
    "output 0 differs": other_dropout,
}


@pytest.mark.parametrize(("message", "plant"), PLANTS.items(), ids=PLANTS)
def test_a_planted_difference_is_named(
    message: str, plant: Callable[[fx.GraphModule], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = check_training._without_gates

    def planted(*args: Any) -> fx.GraphModule:
        network = original(*args)
        plant(network)
        return network

    monkeypatch.setattr(check_training, "_without_gates", planted)
    with pytest.raises(TraceError, match=message):
        gated(Net(), IMAGES)


class Drops(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, self.training))


def test_other_random_numbers_are_no_difference_but_another_spread_is(monkeypatch: pytest.MonkeyPatch) -> None:
    original = check_training._without_gates
    p = 0.5

    def planted(*args: Any) -> fx.GraphModule:
        network = original(*args)
        dropout = next(module for module in network.modules() if isinstance(module, nn.Dropout))
        dropout.p = p
        # The dropout behind it draws first, and drops nothing worth mentioning.
        dropout.register_forward_pre_hook(lambda module, inputs: (F.dropout(inputs[0], 1e-6),))
        return network

    monkeypatch.setattr(check_training, "_without_gates", planted)
    gated(Drops(), IMAGES)
    p = 0.05
    with pytest.raises(TraceError, match="output 0 differs"):
        gated(Drops(), IMAGES)


@pytest.mark.parametrize("backbone", [Drops, WarmsUp])
def test_looking_changes_neither_the_backbone_nor_any_random_state(backbone: type[nn.Module]) -> None:
    network = backbone().train()
    model = gated(Net(), IMAGES)
    before = copy.deepcopy(network.state_dict())
    state = random_state()
    check = (network, model.branches["shared"], model.program, (IMAGES,))
    with pytest.raises(TraceError, match="output 0 differs"):
        check_training.check_training(*check)
    assert random_state() == state
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in (*network.parameters(), *model.parameters()))


class OneSample(nn.Module):
    """Cannot train on one sample, because its norm sees one position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x.mean((2, 3), keepdim=True)))
        return x + torch.ones_like(x) * (2.0 if self.training else 1.0)


def test_one_example_is_enough() -> None:
    assert gated(OneSample().train(), IMAGES[:1]).training


class Frozen(Net):
    """Keeps its norm in evaluation."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.norm.eval()
        return self


def modes(model: g2s.GatedModel, name: str) -> set[bool]:
    return {branch.get_submodule(name).training for branch in model.branches.values()}


def test_what_an_own_train_leaves_in_evaluation_stays_there() -> None:
    """The norms used to be switched to training, because the backbone's `train` was not called."""
    model = gated(Frozen(), IMAGES)
    for _ in range(2):
        model.train()
        assert modes(model, "norm") == {False}
        assert modes(model, "first") == {True}
        model.eval()
        assert modes(model, "first") == {False}


def test_the_gated_model_starts_in_the_modes_of_the_backbone_and_of_the_heads() -> None:
    """All modules used to be switched to the mode of the backbone itself."""
    backbone = Net()
    backbone.norm.eval()
    head = nn.Sequential(nn.BatchNorm2d(2).eval(), nn.Conv2d(2, 1, 1))
    model = g2s.gate(backbone, tasks=["a"], example_inputs=(IMAGES,), heads={"a": head})
    assert modes(model, "norm") == {False}
    assert modes(model, "first") == {True}
    assert [module.training for module in model.heads["a"].children()] == [False, True]  # type: ignore[union-attr]
    assert modes(model.train(), "norm") == {True}
