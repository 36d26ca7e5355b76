"""Projection: what comes out costs at most the budget, and nearly as much."""

from collections.abc import Callable
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

import gate2static as g2s
from gate2static.budget import check_budget, projection
from gate2static.budget.meter import Meter, gate_logits, task_macs
from gate2static.errors import BenchError, BudgetError
from gate2static.latency import latency_model

pytestmark = pytest.mark.slow

Make = Callable[..., g2s.GatedModel]


def alphas(gated: g2s.GatedModel) -> torch.Tensor:
    return torch.cat([alpha.flatten() for alpha in gate_logits(gated).values()]).clone()


_SHARES = (0.36, 0.5, 0.7, 0.9)
_KINDS_OF_GATES: tuple[dict[str, object], ...] = ({}, {"group_size": 4}, {"mixing": "hard"}, {"tie_residual": True})
# Every share with every kind of gates; each of both with both seeds.
_DRAWN = [
    (share, options, (row + column) % 2)
    for row, share in enumerate(_SHARES)
    for column, options in enumerate(_KINDS_OF_GATES)
]


@pytest.mark.parametrize(("share", "options", "seed"), _DRAWN, ids=str)
def test_the_static_network_costs_at_most_the_budget_and_at_least_99_per_cent_of_it(
    make: Make, share: float, options: dict[str, object], seed: int
) -> None:
    gated = make(seed, **options)
    report = g2s.project_to_budget(gated, g2s.Budget(macs=share))
    macs = g2s.prune(gated).manifest.macs
    assert macs.static == report.after["network"]
    assert report.limits["network"] == share * macs.separate
    assert 0.99 <= macs.static / (share * macs.separate) <= 1


def test_an_absolute_budget_is_in_macs(make: Make) -> None:
    gated = make()
    report = g2s.project_to_budget(gated, g2s.Budget(macs=4e6))
    assert 0.99 * 4e6 <= float(g2s.expected_macs(gated.eval())) <= 4e6
    assert "of 4 M MACs (before: " in str(report)


def test_a_network_that_fits_is_not_changed(make: Make) -> None:
    gated = make(mean=0.0)
    before = alphas(gated)
    report = g2s.project_to_budget(gated, g2s.Budget(macs=1))
    assert torch.equal(alphas(gated), before)
    assert report.flips == {}
    assert report.before == report.after


def assert_least_certain(gated: g2s.GatedModel, budget: float) -> None:
    """Only open gates flip, and but for those given back all that flip are less certain than all that stay."""
    before = alphas(gated)
    report = g2s.project_to_budget(gated, g2s.Budget(macs=budget))
    after = alphas(gated)
    flipped = after != before
    assert int(flipped.sum()) == sum(report.flips.values()) > 10
    assert bool((before[flipped] > 0).all())
    assert bool((after[flipped] < 0).all())
    assert float(after[flipped].abs().max()) <= projection.FLIPPED
    stayed = before[~flipped & (before > 0)]
    assert float(before[flipped].max()) <= float(stayed.median())
    assert float((stayed < before[flipped].max()).double().mean()) < 0.05


def test_the_least_certain_gates_flip(make: Make) -> None:
    assert_least_certain(make(), 0.8)


def test_flipping_the_most_certain_gates_would_show(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    right = projection._Gates.open
    monkeypatch.setattr(projection._Gates, "open", lambda self, name: right(self, name).flip(0))
    with pytest.raises(AssertionError):
        assert_least_certain(make(), 0.8)


def test_a_budget_by_task_limits_what_is_spent_on_that_task_alone(make: Make) -> None:
    gated = make()
    before = {name: gate.alpha[2].clone() for name, gate in gated.gates.items()}
    budget = g2s.Budget(macs={"left": 0.3, "right": 2e6})
    report = g2s.project_to_budget(gated, budget)
    spent = task_macs(gated, ("left", "right"))
    assert spent == report.after
    for name, limit in report.limits.items():
        assert 0.95 <= spent[name] / limit <= 1
    assert all(torch.equal(gate.alpha[2], before[name]) for name, gate in gated.gates.items())


def test_what_is_spent_on_tasks_alone_adds_up(make: Make) -> None:
    gated = make().eval()
    g2s.set_gates(gated, True)
    assert sum(task_macs(gated, gated.tasks).values()) == float(g2s.expected_macs(gated))
    g2s.set_gates(gated, False)
    assert set(task_macs(gated, gated.tasks).values()) == {48.0 * 5}


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            {"macs": 0.3},
            r"is 0\.3, as a share of the separate .*: 0\.\d+ with all gates shared; with all task-specific it is 1\. R",
        ),
        (
            {"macs": 2e6},
            r"2 M MACs .* is above 1 .*: 2\.12 M MACs with all gates shared; .* it is 6\.36 M MACs\. R",
        ),
        ({"macs": {"left": 2.0}}, r"the budget of left is .*: 0\.00024 M MACs with its gates shared"),
        ({"macs": {"centre": 0.5}}, "the budget names centre; the network's tasks are left, right, mask"),
        (
            {"latency_ms": 1e-9, "device": "a100"},
            r"is 1e-09 estimated ms, below .*: \S+ estimated ms with all gates shared; .* mixed gates may",
        ),
        (
            {"latency": 1e-9, "device": "a100"},
            r"the budget is 1e-09, as a share of the estimated ms of separate networks, below",
        ),
    ],
)
def test_an_unreachable_budget_is_refused_with_the_range(make: Make, budget: dict[str, object], message: str) -> None:
    gated = make()
    before = alphas(gated)
    with pytest.raises(BudgetError, match=message):
        g2s.project_to_budget(gated, g2s.Budget(**budget))
    assert torch.equal(alphas(gated), before)


def test_an_unknown_device_is_refused(make: Make) -> None:
    with pytest.raises(BenchError, match="nowhere is neither a latency table"):
        g2s.project_to_budget(make(), g2s.Budget(latency_ms=1, device="nowhere"))


def test_a_latency_budget_holds_for_the_deployed_form(make: Make) -> None:
    gated = make(group_size=8)
    model = latency_model("a100")

    def predicted() -> float:
        static = g2s.prune(gated).deployed()
        return model.predict_ms(static, static.example_inputs())

    before = predicted()
    report = g2s.project_to_budget(gated, g2s.Budget(latency_ms=0.9 * before, device="a100"))
    assert report.unit == "estimated ms"
    assert f"{report.after['network']:.4g} of {report.limits['network']:.4g} estimated ms" in str(report)
    assert predicted() == report.after["network"] <= 0.9 * before == report.limits["network"]
    assert report.before["network"] == before


def test_an_interrupted_projection_changes_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = make()
    before = alphas(gated)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(projection, "_reopen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        g2s.project_to_budget(gated, g2s.Budget(macs=0.5))
    assert torch.equal(alphas(gated), before)


def test_a_measured_table_gives_a_budget_in_ms(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = MagicMock(estimated=False)
    measured.predict_ms.return_value = 2.0
    monkeypatch.setattr("gate2static.budget.meter.latency_model", lambda device: measured)
    assert g2s.project_to_budget(make(), g2s.Budget(latency_ms=3, device="board.json")).unit == "ms"


def test_a_table_that_mixed_gates_cannot_be_priced_with_is_found_out_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict_ms(static: g2s.StaticModel, inputs: object) -> float:
        if any("mul" in str(node.target) for node in static.network.graph.nodes):
            raise BenchError("no times of 'multiply'")
        return 2.0

    partial = MagicMock(estimated=False, predict_ms=predict_ms)
    monkeypatch.setattr("gate2static.budget.meter.latency_model", lambda device: partial)
    gated = make(tie_residual=True)
    before = alphas(gated)
    with pytest.raises(BenchError, match="no times of 'multiply'"):
        check_budget(gated, g2s.Budget(latency_ms=3, device="board.json"))
    assert torch.equal(alphas(gated), before)


class Products(nn.Module):
    """Ends in a matmul, which costs a task more where its operands mix streams."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleList((nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for unit in self.units:
            x = unit(x).relu()
        rows = x.flatten(2)
        return (rows @ rows.transpose(1, 2)).flatten(1)


@pytest.fixture
def out_of_reach() -> tuple[g2s.GatedModel, g2s.Budget]:
    """A budget of one task that holds only where the other task's gates are shared too."""
    heads = {task: nn.Linear(256, 5) for task in ("left", "right")}
    inputs = (torch.zeros(2, 3, 8, 8),)
    gated = g2s.gate(Products(), tasks=tuple(heads), example_inputs=inputs, heads=heads, gate_init=1.0)
    g2s.set_gates(gated, False)
    both = task_macs(gated, ("left",))["left"]
    g2s.set_gates(gated, {name: torch.stack([torch.zeros(16), torch.ones(16)]).bool() for name in gated.gates})
    alone = task_macs(gated, ("left",))["left"]
    assert both < alone
    g2s.set_gates(gated, True)
    return gated, g2s.Budget(macs={"left": (both + alone) / 2})


def test_a_task_that_costs_too_much_with_all_its_gates_shared_is_refused_before_training(
    out_of_reach: tuple[g2s.GatedModel, g2s.Budget],
) -> None:
    gated, budget = out_of_reach
    before = alphas(gated)
    with pytest.raises(BudgetError, match=r"the budget of left is .*, below what can be reached: .* its gates shared"):
        g2s.project_to_budget(gated, budget)
    assert torch.equal(alphas(gated), before)


def test_a_projection_that_runs_out_of_gates_ends(
    out_of_reach: tuple[g2s.GatedModel, g2s.Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    gated, budget = out_of_reach
    before = alphas(gated)
    monkeypatch.setattr(Meter, "_refuse_unreachable", lambda self: None)
    with pytest.raises(BudgetError, match="the budget of left is .* with all its gates shared it still costs"):
        g2s.project_to_budget(gated, budget)
    assert torch.equal(alphas(gated), before)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_noisy_clock_gives_a_latency_near_the_budget_in_few_looks(make: Make, share: float) -> None:
    """Four milliseconds a million MACs and a fifth on top of mixed gates, timed to 2 %."""
    noise = torch.Generator().manual_seed(3)
    looks = []

    def true_ms(static: g2s.StaticModel) -> float:
        mixed = any("mul" in str(node.target) for node in static.network.graph.nodes)
        return 4e-6 * static.manifest.macs.static * (1.2 if mixed else 1.0)

    def measure(static: g2s.StaticModel) -> float:
        looks.append(true_ms(static) * (1 + 0.02 * float(torch.rand((), generator=noise) * 2 - 1)))
        return looks[-1]

    gated = make(group_size=4)
    report = g2s.project_to_budget(gated, g2s.Budget(latency=share, device="onnxruntime"), measure=measure)
    assert report.unit == "measured ms"
    assert report.after["network"] == looks[-1] <= report.limits["network"]
    assert 0.95 <= true_ms(g2s.prune(gated)) / report.limits["network"] <= 1.05
    assert len(looks) <= 12


def test_what_is_timed_is_pruned_for_the_target(make: Make) -> None:
    looked_at = []

    def measure(static: g2s.StaticModel) -> float:
        looked_at.append(static.manifest.digest)
        return float(static.manifest.macs.static)

    gated = make(group_size=4)
    budget = g2s.Budget(latency=0.7, device="onnxruntime")
    report = g2s.project_to_budget(gated, budget, measure=measure, target="openvino")
    static = g2s.prune(gated, target="openvino")
    assert static.manifest.digest in looked_at
    assert g2s.prune(gated).manifest.digest not in looked_at
    assert report.after["network"] == static.manifest.macs.static


def test_a_target_without_a_clock_is_refused(make: Make) -> None:
    with pytest.raises(BudgetError, match="target='ort-cpu' is for networks that are timed; give measure="):
        g2s.project_to_budget(make(), g2s.Budget(macs=0.5), target="ort-cpu")
