"""Gates in groups, hard mixing and ties along the residual streams: what holds for plain gates holds for them."""

from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gate2static.gates import Gate, GatedModel, set_gates
from gate2static.prune import expected_macs, prune
from gate2static.prune.emission.layout import LAYOUT
from gate2static.prune.emit import emit
from gate2static.prune.rules.gate import GateRule
from gate2static.static import load_static
from gate2static.verify import verify
from tests import zoo

pytestmark = pytest.mark.slow

SMALL = ("two_scales", "many_rules", "token_rules")
"""Every rule; these meet every kind of gates."""
WHOLE = {"resnet12": ("tied_groups", "tied_hard_groups"), "densenet": ("hard_groups",)}
"""Whole networks with the kinds that their joints make harder: ties along residual streams, groups in dense blocks."""
NETWORKS = (*SMALL, *WHOLE)
PATTERNS = ("random_0.1", "random_0.5", "one_channel", "one_task")
OPTIONS: dict[str, dict[str, Any]] = {
    "hard": {"mixing": "hard"},
    "hard_groups": {"mixing": "hard", "group_size": 5},
    "tied_groups": {"tie_residual": True, "group_size": 3},
    "tied_hard": {"tie_residual": True, "mixing": "hard"},
    "tied_hard_groups": {"tie_residual": True, "mixing": "hard", "group_size": 4},
}


CASES = [*product(SMALL, OPTIONS), *((name, options) for name in WHOLE for options in WHOLE[name])]


@lru_cache(maxsize=1)
def _network(name: str, options: str) -> tuple[GatedModel, torch.Tensor]:
    gated, x = zoo.make_gated(name, 3, **OPTIONS[options])
    return gated.double(), x.double()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_static_network_equals_the_gated_one_and_costs_what_was_predicted(
    name: str, options: str, pattern: str
) -> None:
    gated, x = _network(name, options)
    zoo.PATTERNS[pattern](gated)
    zoo.check_exact(gated, x)


@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_constant_gates_leave_exactly_one_backbone_or_one_a_task(
    name: str, options: str, specific: bool
) -> None:
    gated, x = _network(name, options)
    set_gates(gated, specific)
    bare = zoo.make_backbone(name)[0].double()
    copies = len(gated.tasks) if specific else 1
    heads = sum(p.numel() for p in gated.heads.parameters())
    with torch.no_grad():
        features = bare(x)
    macs = sum(zoo.counted_macs(head, (features,)) for head in gated.heads.values())
    static = zoo.check_exact(gated, x)
    assert sum(p.numel() for p in static.parameters()) == heads + copies * sum(p.numel() for p in bare.parameters())
    assert int(expected_macs(gated)) == macs + copies * zoo.counted_macs(bare, (x,))


def test_a_hard_mix_is_no_arithmetic() -> None:
    def arithmetic(**options: Any) -> set[Any]:
        torch.manual_seed(0)
        gated, _ = zoo.make_gated("two_scales", 3, **options)
        targets = {node.target for node in emit(zoo.planned(gated), LAYOUT).graph.nodes}
        return targets & {torch.softmax, torch.mul, torch.add, torch.select}

    assert torch.softmax in arithmetic(mixing="softmax")
    assert arithmetic(mixing="hard") == set()


def _one_winner() -> tuple[GatedModel, torch.Tensor]:
    """A chain whose first layer is each task's own; the others are shared, so they read the winner's alone."""
    gated, x = zoo.make_gated("vgg", 3, mixing="hard", group_size=4)
    set_gates(gated, False)
    with torch.no_grad():
        first = next(iter(gated.gates.values()))
        first.alpha.fill_(1.0)
        first.beta.copy_(torch.tensor([0.0, 2.0, 1.0])[:, None])
    return gated.double(), x.double()


def test_only_the_winners_channels_live_for_the_shared_stream() -> None:
    gated, x = _one_winner()
    decided = zoo.planned(gated)
    static = emit(decided, LAYOUT)
    first = static.get_submodule(next(n.target for n in static.graph.nodes if n.op == "call_module"))
    assert torch.equal(first.weight, gated.branches["b"].get_submodule("0").weight)
    assert zoo.relative_error(zoo.outputs(gated, x), zoo.outputs(static, x)) <= 1e-9
    found = int(expected_macs(gated))
    set_gates(gated, False)
    assert found == decided.macs() == int(expected_macs(gated))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_hard_mix_never_costs_more_than_a_soft_one(name: str) -> None:
    soft, _ = zoo.make_gated(name, 3)
    hard, _ = zoo.make_gated(name, 3, mixing="hard")
    set_gates(hard, {unit: gate.alpha > 0 for unit, gate in soft.gates.items()})
    assert int(expected_macs(hard)) <= int(expected_macs(soft))


def _alphas(gated: GatedModel) -> dict[int, torch.nn.Parameter]:
    return {id(gate.alpha): gate.alpha for gate in gated.gates.values()}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["two_scales", "many_rules", "token_rules"])
def test_certain_gates_cost_in_training_what_they_cost_in_eval_mode(name: str, options: str) -> None:
    gated, _ = zoo.make_gated(name, 3, **OPTIONS[options])
    with torch.no_grad():
        for alpha in _alphas(gated).values():
            alpha.mul_(40)
    exact = float(expected_macs(gated.eval()))
    assert expected_macs(gated.train()).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_gradient_of_the_cost_is_its_slope(options: str) -> None:
    gated, _ = zoo.make_gated("two_scales", 3, **OPTIONS[options])
    gated = gated.double().train()
    with torch.no_grad():
        for alpha in _alphas(gated).values():
            alpha.normal_(std=0.5)
    expected_macs(gated).backward()
    step = 1e-6
    for alpha in _alphas(gated).values():
        found = []
        for change in (step, -2 * step):
            with torch.no_grad():
                alpha[1, 0] += change
            found.append(expected_macs(gated).item())
        with torch.no_grad():
            alpha[1, 0] += step
        assert float(alpha.grad[1, 0]) == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_whole_road_holds(options: str, tmp_path: Path) -> None:
    gated, x = zoo.make_gated("many_rules", 3, **OPTIONS[options])
    before = {name: value.clone() for name, value in gated.state_dict().items()}
    static = prune(gated)
    assert verify(gated, static).passed
    assert all(torch.equal(value, before[name]) for name, value in gated.state_dict().items())
    assert prune(gated).manifest == static.manifest
    assert all(sum(shares) == pytest.approx(1.0) for shares in static.manifest.contributions.values())
    static.save(tmp_path / "static")
    again = load_static(tmp_path / "static")
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(static(x).values(), again(x).values(), strict=True))


def test_winners_survive_rounding_to_the_deployed_dtype() -> None:
    gated, _ = zoo.make_gated("two_scales", 3, mixing="hard")
    with torch.no_grad():
        for gate in gated.gates.values():
            gate.beta.copy_(1 + 1e-6 * torch.rand_like(gate.beta))
    assert verify(gated, prune(gated, dtype=torch.bfloat16)).passed


def _nobody_wins(self: Any, need: Tensor, gates: Any) -> list[Tensor]:
    return _demand(self, torch.cat([need[:-1], 0 * need[-1:]]), gates)


def _all_are_needed(self: Any, need: Tensor, gates: Any) -> list[Tensor]:
    return _demand(self, need.maximum(need[-1:]), gates)


_demand = GateRule.need_of_inputs


def test_a_planted_bug_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    gated, x = _one_winner()
    expected, macs = zoo.outputs(gated, x), int(expected_macs(gated))
    with monkeypatch.context() as patch:
        patch.setattr(Gate, "winners", lambda self: torch.full((self.channels,), 2))
        assert zoo.relative_error(expected, zoo.outputs(emit(zoo.planned(gated), LAYOUT), x)) > 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(GateRule, "need_of_inputs", _all_are_needed)
        assert zoo.planned(gated).macs() > macs
    with monkeypatch.context() as patch:
        patch.setattr(GateRule, "need_of_inputs", _nobody_wins)
        assert zoo.planned(gated).macs() < macs
