"""Saliency: the channels that tasks pull apart come first, and a budget keeps them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.budget import decide_by_saliency, freeze_gates
from gate2static.budget.ranking import rank_gates
from gate2static.errors import GateError
from gate2static.gates import gate_decisions

TASKS = ("a", "b")


class _Two(nn.Module):
    """Two layers of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


def make(**options: object) -> g2s.GatedModel:
    torch.manual_seed(0)
    heads = {"a": nn.Identity(), "b": nn.Identity()}
    return g2s.gate(_Two(), tasks=TASKS, example_inputs=(torch.randn(2, 2, 3, 3),), heads=heads, **options)  # type: ignore[arg-type]  # options of several types


def batches(count: int = 12) -> Iterator[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(4, 2, 3, 3, generator=generator), None


def losses(outputs: dict[str, Tensor], _: None) -> dict[str, Tensor]:
    """Task a wants its first four channels at 1 and does not care for the others; task b is pulled to and fro."""
    noise = torch.randn_like(outputs["b"])
    return {"a": (outputs["a"][:, :4] - 1).square().mean(), "b": (outputs["b"] * noise).mean()}


def test_what_a_task_does_not_read_has_no_saliency_and_noise_has_little() -> None:
    scores = decide_by_saliency(make(), batches(), losses)
    a, b = scores["second"]
    assert (a[4:] == 0).all()
    assert a[:4].min() > 2 * b.mean()


def test_a_budget_keeps_the_most_salient_gates() -> None:
    gated = make()
    scores = decide_by_saliency(gated, batches(), losses)
    assert all(decision.all() for decision in gate_decisions(gated).values())
    freeze_gates(gated, g2s.Budget(macs=0.7))
    kept = gate_decisions(gated)["second"]
    # The last gates fill up what is left of the budget, so only the first in the order are certain.
    best = scores["second"].flatten().argsort(descending=True)[:3]
    assert kept.flatten()[best].all()
    assert scores["second"][kept].mean() > scores["second"][~kept].mean()


def test_prefixes_are_the_first_channels() -> None:
    gated = make()
    decide_by_saliency(gated, batches(), losses, prefix=True)
    freeze_gates(gated, g2s.Budget(macs=0.7))
    for decision in gate_decisions(gated).values():
        assert (decision.long().diff(dim=1) <= 0).all()


def test_weights_buffers_and_mode_stay_what_they_are() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
    heads = {task: nn.Identity() for task in TASKS}
    gated = g2s.gate(backbone, tasks=TASKS, example_inputs=(torch.randn(2, 2, 3, 3),), heads=heads).eval()
    before = {name: value.clone() for name, value in gated.state_dict().items()}

    def squares(outputs: dict[str, Tensor], _: None) -> dict[str, Tensor]:
        return {task: output.square().mean() for task, output in outputs.items()}

    decide_by_saliency(gated, batches(), squares)
    after = gated.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if not name.endswith("alpha"))
    assert not gated.training
    assert gated.settled_encoder is None


def test_branches_that_differ_are_refused() -> None:
    other = {name: value + 1 for name, value in _Two().state_dict().items()}
    with pytest.raises(GateError, match="the branches differ, in first"):
        decide_by_saliency(make(task_states={"a": other}), batches(), losses)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_batches_are_refused_and_leave_the_gates(count: int) -> None:
    gated = make()
    before = gate_decisions(gated)
    with pytest.raises(GateError, match=f"saliency was given {count} batches; allowed are 2 or more"):
        decide_by_saliency(gated, batches(count), losses)
    assert all(torch.equal(before[unit], now) for unit, now in gate_decisions(gated).items())


def _one_tensor(outputs: dict[str, Tensor], _: None) -> Tensor:
    return outputs["a"].mean()


def _one_task(outputs: dict[str, Tensor], _: None) -> dict[str, Tensor]:
    return {"a": outputs["a"].mean()}


def _no_number(outputs: dict[str, Tensor], _: None) -> dict[str, Tensor]:
    return {task: output.mean() * float("nan") for task, output in outputs.items()}


def _no_gradient(outputs: dict[str, Tensor], _: None) -> dict[str, Tensor]:
    return {task: output.detach().mean() for task, output in outputs.items()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_one_tensor, "what losses returns is a Tensor; allowed is a dict from task"),
        (_one_task, r"losses are given for \['a'\], the model's tasks are \['a', 'b'\]"),
        (_no_number, "the loss of a is nan; allowed is a finite scalar"),
        (_no_gradient, "the loss of a is .*; allowed is a finite scalar with a gradient"),
    ],
)
def test_wrong_losses_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(GateError, match=message):
        decide_by_saliency(make(), batches(), wrong)


def test_outputs_of_transposed_convolutions_are_their_second_dimension() -> None:
    """With as many inputs as outputs, the inputs were scored: what no task reads had a score."""
    torch.manual_seed(0)
    heads = {task: nn.Identity() for task in TASKS}
    backbone = nn.ConvTranspose2d(4, 4, 2)
    gated = g2s.gate(backbone, tasks=TASKS, example_inputs=(torch.randn(2, 4, 3, 3),), heads=heads)
    images = [(torch.randn(4, 4, 3, 3), None) for _ in range(6)]

    def halves(outputs: dict[str, Tensor], _: None) -> dict[str, Tensor]:
        return {task: (output[:, :2] - 1).square().mean() for task, output in outputs.items()}

    (scores,) = decide_by_saliency(gated, images, halves).values()
    assert (scores[:, 2:] == 0).all()
    assert (scores[:, :2] > 0).all()


def test_frozen_weights_are_no_error_and_worth_nothing() -> None:
    gated = make()
    for branch in gated.branches.values():
        branch.get_submodule("first").requires_grad_(False)
    scores = decide_by_saliency(gated, batches(), losses)
    assert (scores["first"] == 0).all()
    assert (scores["second"][0, :4] > 0).all()


def test_modules_that_were_in_evaluation_stay_in_it() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
    heads = {task: nn.Identity() for task in TASKS}
    gated = g2s.gate(backbone, tasks=TASKS, example_inputs=(torch.randn(2, 2, 3, 3),), heads=heads).train()
    for branch in gated.branches.values():
        branch.get_submodule("1").eval()
    before = [module.training for module in gated.modules()]
    decide_by_saliency(gated, batches(), lambda o, _: {task: output.square().mean() for task, output in o.items()})
    assert [module.training for module in gated.modules()] == before


def test_inputs_may_be_several() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.layer(x + y)  # type: ignore[no-any-return]

    x = torch.randn(2, 2, 3, 3)
    heads = {task: nn.Identity() for task in TASKS}
    gated = g2s.gate(Sum(), tasks=TASKS, example_inputs=(x, x), heads=heads)
    ways = [[((x, x), None)] * 3, [({"x": x, "y": x}, None)] * 3]

    def squares(outputs: dict[str, Tensor], _: None) -> dict[str, Tensor]:
        return {task: output.square().mean() for task, output in outputs.items()}

    first, second = (decide_by_saliency(gated, way, squares) for way in ways)
    assert torch.equal(first["layer"], second["layer"])


def test_of_equal_channels_a_budget_leaves_the_first() -> None:
    gated = make()
    rank_gates(gated, {unit: torch.ones_like(gate.alpha) for unit, gate in gated.gates.items()})
    for gate in gated.gates.values():
        assert (gate.alpha.diff(dim=1) < 0).all()
