"""The controller: λ leads the decided cost to the budget, and its state is all that going on needs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gate2static as g2s
from gate2static.budget import controller as controlled
from gate2static.errors import BudgetError

pytestmark = pytest.mark.slow

Make = Callable[..., g2s.GatedModel]
TAUS = {"left": 0.0, "right": 0.0, "mask": 0.0}
EPOCHS, STEPS = 6, 20


def train_gates(gated: g2s.GatedModel, steered: g2s.BudgetController, steps: int = EPOCHS * STEPS) -> list[float]:
    """Gates alone, each with a task that pulls it open; returns λ step by step."""
    pulls = torch.Generator().manual_seed(0)
    pull = [2e-3 * torch.rand(gate.alpha.shape, generator=pulls) for gate in gated.gates.values()]
    found = []
    for _ in range(steps):
        found.append(steered.step(gated))
        gated.zero_grad()
        steered.penalty(gated, targets=TAUS).backward()
        with torch.no_grad():
            for gate, up in zip(gated.gates.values(), pull, strict=True):
                gate.alpha += up - 2 * gate.alpha.grad
    return found


def gap_in_the_end(make: Make, share: float) -> float:
    gated = make(mean=0.05, std=0.05).train()
    steered = g2s.BudgetController(gated, g2s.Budget(macs=share), weight=1.0, epochs=EPOCHS, epoch_steps=STEPS)
    lambdas = train_gates(gated, steered)
    assert min(lambdas) >= 0
    report = g2s.project_to_budget(gated, g2s.Budget(macs=share))
    return abs(report.before["network"] / report.limits["network"] - 1)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_the_decided_cost_comes_near_the_budget_before_the_projection(make: Make, share: float) -> None:
    assert gap_in_the_end(make, share) < 0.1


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_controller_with_the_wrong_sign_would_show(make: Make, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlled, "PROPORTIONAL", -controlled.PROPORTIONAL)
    monkeypatch.setattr(controlled, "INTEGRAL", -controlled.INTEGRAL)
    assert gap_in_the_end(make, share) > 0.1


def test_going_on_from_the_state_equals_never_stopping(make: Make) -> None:
    budget = g2s.Budget(macs={"left": 0.4, "right": 0.6})
    gated = make(mean=0.05, std=0.05)
    whole = g2s.BudgetController(gated, budget, weight=1.0, epochs=EPOCHS, epoch_steps=STEPS)
    train_gates(gated, whole, 33)
    state, weights = whole.state_dict(), {k: v.clone() for k, v in gated.state_dict().items()}
    expected = train_gates(gated, whole, 40)
    again = make(seed=1)
    again.load_state_dict(weights)
    resumed = g2s.BudgetController(again, budget, weight=1.0, epochs=EPOCHS, epoch_steps=STEPS)
    resumed.load_state_dict(state)
    assert train_gates(again, resumed, 40) == expected
    assert resumed.state_dict() == whole.state_dict()


def test_without_the_state_going_on_would_differ(make: Make) -> None:
    gated = make(mean=0.05, std=0.05)
    one = g2s.BudgetController(gated, g2s.Budget(macs=0.5), weight=1.0, epochs=EPOCHS, epoch_steps=STEPS)
    train_gates(gated, one, 33)
    fresh = g2s.BudgetController(gated, g2s.Budget(macs=0.5), weight=1.0, epochs=EPOCHS, epoch_steps=STEPS)
    assert fresh.state_dict() != one.state_dict()
    assert one.step(gated) != fresh.step(gated)


def test_lambda_keeps_within_its_range_and_comes_back_at_once(make: Make) -> None:
    """Anti-windup: a cost that was above the budget for long leaves no memory once it is below."""
    gated = make()
    g2s.set_gates(gated, True)
    steered = g2s.BudgetController(gated, g2s.Budget(macs=0.5), weight=2.0, epochs=10, epoch_steps=10)
    high = [steered.step(gated) for _ in range(90)][-1]
    assert high == pytest.approx(2000)
    g2s.set_gates(gated, False)
    assert steered.step(gated) < 100
    low = [steered.step(gated) for _ in range(9)][-1]
    assert low == pytest.approx(0.002)


def test_lambda_stays_below_its_largest_value(make: Make) -> None:
    """Where λ has a unit, 1 closes everything: more would close a task for good before the cost is looked at again."""
    gated = make()
    steered = g2s.BudgetController(gated, g2s.Budget(macs=0.5), weight=0.05, epochs=10, epoch_steps=10, most=1.0)
    seen = [steered.step(gated) for _ in range(100)]  # nothing closes, so the gap stays
    assert max(seen) == pytest.approx(1.0)


def test_a_controller_by_task_presses_the_task_that_costs_too_much(make: Make) -> None:
    gated = make()
    g2s.set_gates(gated, True)
    budget = g2s.Budget(macs={"left": 0.2, "right": 1.0})
    steered = g2s.BudgetController(gated, budget, weight=1.0, epochs=EPOCHS, epoch_steps=STEPS)
    for _ in range(60):
        steered.step(gated)
    assert steered.weights["left"] > steered.weights["right"] == steered.weights["mask"] == 1.0
    hinges = [g2s.sparsity_hinge(gated, targets={**dict.fromkeys(TAUS, 1.0), task: 0.0}) for task in TAUS]
    expected = sum(steered.weights[task] * hinge for task, hinge in zip(TAUS, hinges, strict=True))
    assert torch.allclose(steered.penalty(gated, targets=TAUS), expected)


def test_one_lambda_for_all_is_the_weighted_hinge(make: Make) -> None:
    gated = make()
    steered = g2s.BudgetController(gated, g2s.Budget(macs=0.5), weight=3.0, epochs=2, epoch_steps=5)
    assert torch.equal(steered.penalty(gated, targets=TAUS), 3.0 * g2s.sparsity_hinge(gated, targets=TAUS))


def test_looking_changes_nothing(make: Make) -> None:
    gated = make().train()
    before, modes = {k: v.clone() for k, v in gated.state_dict().items()}, [m.training for m in gated.modules()]
    g2s.BudgetController(gated, g2s.Budget(macs=0.5), epochs=2, epoch_steps=5).step(gated)
    assert all(torch.equal(value, before[key]) for key, value in gated.state_dict().items())
    assert [m.training for m in gated.modules()] == modes


def test_a_latency_is_predicted_once_an_epoch_and_follows_the_macs_between(make: Make) -> None:
    gated = make(group_size=16)
    steered = g2s.BudgetController(gated, g2s.Budget(latency=0.9, device="a100"), epochs=2, epoch_steps=4)
    predicted = []
    measure = steered._meter.measure
    steered._meter.measure = lambda g: predicted.append(measure(g)) or predicted[-1]  # type: ignore[func-returns-value]
    for step in range(8):
        if step == 2:
            first = steered.costs["network"]
            g2s.set_gates(gated, False)
        steered.step(gated)
    assert len(predicted) == 2
    assert first == pytest.approx(predicted[0]["network"])
    assert steered.costs["network"] == pytest.approx(predicted[1]["network"])


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"epoch_steps": 0}, {"weight": 0.0}])
def test_what_must_be_positive_is_refused(make: Make, wrong: dict[str, Any]) -> None:
    with pytest.raises(BudgetError, match="epochs is 0|epoch_steps is 0|positive number"):
        g2s.BudgetController(make(), g2s.Budget(macs=0.5), **{"epochs": 2, "epoch_steps": 4, **wrong})


def test_an_unreachable_budget_is_refused_before_training(make: Make) -> None:
    with pytest.raises(BudgetError, match="below what can be reached"):
        g2s.BudgetController(make(), g2s.Budget(macs=0.1), epochs=2, epoch_steps=4)
