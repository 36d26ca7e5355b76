"""`expected_macs` as a penalty: differentiable, exact where gates are certain, and sinking with what it punishes."""


import pytest
import torch

from gate2static.gates import GatedModel, gate_parameters, set_gates
from gate2static.prune import expected_macs, prune
from tests import zoo

NETWORKS = ("two_scales", "many_rules", "densenet")


def _cost(gated: GatedModel) -> float:
    return expected_macs(gated).detach().item()


def _saturate(gated: GatedModel) -> None:
    """The same decisions with probabilities of 0 and 1."""
    with torch.no_grad():
        for unit in gated.gates.values():
            unit.alpha.copy_(unit.alpha.sign() * 40)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("tasks", [1, 3])
def test_certain_gates_cost_in_training_what_they_cost_in_eval_mode(name: str, tasks: int) -> None:
    gated, _ = zoo.make_gated(name, tasks)
    _saturate(gated)
    exact = expected_macs(gated.eval())
    assert float(exact) == int(exact)
    assert _cost(gated.train()) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_reaches_every_unit_and_is_finite(name: str) -> None:
    gated, _ = zoo.make_gated(name, tasks=2)
    with torch.no_grad():
        for unit in gated.gates.values():
            unit.alpha.normal_(std=0.5)
    macs = expected_macs(gated.train())
    assert macs.dtype == torch.float64
    assert macs.shape == ()
    macs.backward()
    for unit in gated.gates.values():
        assert unit.alpha.grad is not None
        assert unit.alpha.grad.isfinite().all()
        assert unit.beta.grad is None
    assert sum(float(unit.alpha.grad.abs().sum()) > 0 for unit in gated.gates.values()) == len(gated.gates)


def test_the_gradient_is_the_slope() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2)
    gated = gated.double().train()
    unit = list(gated.gates.values())[1]
    with torch.no_grad():
        for other in gated.gates.values():
            other.alpha.normal_(std=0.5)
    expected_macs(gated).backward()
    step = 1e-6
    for index in ((0, 0), (1, 3)):
        with torch.no_grad():
            unit.alpha[index] += step
            above = _cost(gated)
            unit.alpha[index] -= 2 * step
            below = _cost(gated)
            unit.alpha[index] += step
        assert float(unit.alpha.grad[index]) == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_the_cost_lies_between_one_network_and_all_branches() -> None:
    gated, _ = zoo.make_gated("densenet", tasks=3)
    costs = prune(gated).manifest.macs
    for p in (0.02, 0.5, 0.98):
        for unit in gated.gates.values():
            torch.nn.init.constant_(unit.alpha, float(torch.logit(torch.tensor(p))))
        assert costs.shared < _cost(gated.train()) < costs.gated


def test_closing_a_gate_that_the_others_have_closed_lowers_the_cost() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3)
    set_gates(gated, False)
    unit = list(gated.gates.values())[2]
    found = []
    for logit in (3.0, 1.0, 0.0, -1.0, -3.0):
        torch.nn.init.constant_(unit.alpha[0], logit)
        found.append(_cost(gated.train()))
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found)


def test_one_step_against_the_gradient_saves_macs() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3)
    for unit in gated.gates.values():
        torch.nn.init.normal_(unit.alpha, 0.0, 0.1)
    before = expected_macs(gated.train())
    before.backward()
    optimiser = torch.optim.SGD([p for p in gate_parameters(gated) if p.grad is not None], 0.1 / before.item())
    optimiser.step()
    assert _cost(gated) < before.item()


def test_weights_do_not_matter_and_are_not_touched() -> None:
    gated, _ = zoo.make_gated("two_scales")
    before = _cost(gated)
    for parameter in gated.branches["shared"].parameters():
        torch.nn.init.zeros_(parameter)
    assert _cost(gated) == before
    expected_macs(gated.train()).backward()
    assert all(p.grad is None for p in gated.encoder.branches.parameters())
