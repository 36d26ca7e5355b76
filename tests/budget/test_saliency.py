"""Saliency: the channels that tasks pull apart come first, and a budget keeps them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.budget import decide_by_saliency, freeze_gates
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


def test_no_batch_is_refused() -> None:
    with pytest.raises(GateError, match="saliency needs batches"):
        decide_by_saliency(make(), [], losses)
