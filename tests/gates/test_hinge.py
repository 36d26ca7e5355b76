"""The sparsity hinge: eq. 4 by hand, and its arguments."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from gate2static.errors import GateError
from gate2static.gates import GatedModel, gate, sparsity_hinge


@pytest.fixture
def gated() -> GatedModel:
    """Units of 2 and 6 channels; every gate's logit is set by hand below."""
    backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 6, 1))
    heads = {"a": nn.Identity(), "b": nn.Identity()}
    return gate(backbone, tasks=["a", "b"], example_inputs=(torch.zeros(1, 3, 4, 4),), heads=heads)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _set(gated: GatedModel, shares: Mapping[str, tuple[float, float]]) -> None:
    """Task -> the probability of every gate in the first unit and in the second."""
    with torch.no_grad():
        for layer, unit in enumerate(gated.gates.values()):
            for task, values in enumerate(shares.values()):
                unit.alpha[task] = _logit(values[layer])


def test_layers_count_alike_whatever_their_channels_and_only_the_excess_counts(gated: GatedModel) -> None:
    """docs/paper.md, note 3: a mean in each layer, then over layers, then over tasks."""
    _set(gated, {"a": (0.9, 0.3), "b": (0.2, 0.4)})
    # Task a: (0.9 + 0.3) / 2 - 0.35 = 0.25. Task b: (0.2 + 0.4) / 2 - 0.5 < 0.
    found = sparsity_hinge(gated, targets={"a": 0.35, "b": 0.5})
    assert found.shape == ()
    assert found.item() == pytest.approx((0.25 + 0.0) / 2, abs=1e-6)
    assert sparsity_hinge(gated, targets={"b": 0.1, "a": 0.35}).item() == pytest.approx((0.25 + 0.2) / 2, abs=1e-6)


def test_channels_of_a_layer_are_averaged(gated: GatedModel) -> None:
    _set(gated, {"a": (0.5, 0.5), "b": (0.5, 0.5)})
    with torch.no_grad():
        next(iter(gated.gates.values())).alpha[0, 0] = _logit(0.9)
    # Task a: ((0.9 + 0.5) / 2 + 0.5) / 2 = 0.6.
    assert sparsity_hinge(gated, targets={"a": 0.0, "b": 1.0}).item() == pytest.approx(0.6 / 2, abs=1e-6)


def test_the_gradient_is_that_of_the_equation_and_spares_tasks_below_their_target(gated: GatedModel) -> None:
    _set(gated, {"a": (0.9, 0.9), "b": (0.1, 0.1)})
    sparsity_hinge(gated, targets={"a": 0.5, "b": 0.5}).backward()
    for unit in gated.gates.values():
        slope = 0.9 * 0.1 / unit.channels / 2 / 2
        torch.testing.assert_close(unit.alpha.grad[0], torch.full((unit.channels,), slope))
        assert not unit.alpha.grad[1].any()
        assert unit.beta.grad is None


def test_a_target_of_one_asks_for_nothing(gated: GatedModel) -> None:
    assert sparsity_hinge(gated, targets={"a": 1.0, "b": 1.0}).item() == 0.0


@pytest.mark.parametrize("targets", [{}, {"a": 0.5}, {"a": 0.5, "b": 0.5, "c": 0.5}, {"a": 0.5, "B": 0.5}])
def test_every_task_has_one_target(gated: GatedModel, targets: dict[str, float]) -> None:
    with pytest.raises(GateError, match=r"given for .*, the model's tasks are \['a', 'b'\]; give one target to each"):
        sparsity_hinge(gated, targets=targets)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf")])
def test_targets_are_shares(gated: GatedModel, bad: float) -> None:
    with pytest.raises(GateError, match="the hinge target of b is .*; allowed is a finite number at least 0 and at"):
        sparsity_hinge(gated, targets={"a": 0.5, "b": bad})
