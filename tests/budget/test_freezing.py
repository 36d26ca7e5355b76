"""The end of the search: gates on the budget, and a network that trains as the static one does."""

import pytest
import torch

import gate2static as g2s
from gate2static.budget import freeze_gates
from gate2static.errors import BudgetError, GateError
from gate2static.gates import gate_decisions, gate_parameters, weight_parameters
from tests import zoo


def test_frozen_gates_meet_the_budget_and_stay_in_training() -> None:
    gated, x = zoo.make_gated("vgg")
    g2s.set_gates(gated, True)
    gated.train()
    report = freeze_gates(gated, g2s.Budget(macs=0.6))
    assert report is not None
    assert report.after["network"] <= report.limits["network"]
    before = gate_decisions(gated)
    # An optimiser with momentum and decay that was made for all parameters.
    optimiser = torch.optim.SGD(gated.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        torch.stack([y.square().mean() for y in gated(x).values()]).sum().backward()
        optimiser.step()
    assert all(torch.equal(before[unit], now) for unit, now in gate_decisions(gated).items())
    static = g2s.prune(gated.eval())
    assert static.manifest.macs["static"] == report.after["network"]
    assert g2s.verify(gated, static).passed


def test_only_what_the_static_network_has_is_trained() -> None:
    gated, x = zoo.make_gated("vgg")
    g2s.set_gates(gated, False)
    gated.train()
    assert freeze_gates(gated) is None
    torch.stack([y.square().mean() for y in gated(x).values()]).sum().backward()
    assert all(parameter.grad is None for parameter in gate_parameters(gated))
    trained = {id(p) for p in weight_parameters(gated) if p.grad is not None and p.grad.any()}
    assert trained & {id(p) for p in gated.branches["shared"].parameters()}
    for task in gated.tasks:
        assert not trained & {id(p) for p in gated.branches[task].parameters()}


def test_a_budget_that_cannot_be_met_freezes_nothing() -> None:
    gated, _ = zoo.make_gated("vgg")
    with pytest.raises(BudgetError, match="below what can be reached"):
        freeze_gates(gated, g2s.Budget(macs=0.01))
    assert all(parameter.requires_grad for parameter in gate_parameters(gated))
    assert gated.settled_encoder is None


def test_another_model_is_refused() -> None:
    with pytest.raises(GateError, match="allowed is a GatedModel"):
        freeze_gates(torch.nn.Linear(2, 2))  # type: ignore[arg-type]  # wrong on purpose


def test_how_to_time_networks_needs_a_budget() -> None:
    gated, _ = zoo.make_gated("vgg")
    with pytest.raises(BudgetError, match="measure= and target= are for a budget"):
        freeze_gates(gated, target="ort-cpu")
