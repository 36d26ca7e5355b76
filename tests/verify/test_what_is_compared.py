"""What verification looks at: the inputs it is given, every task, and outputs that are no numbers."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.verify import verify


class Head(nn.Module):
    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv2d(6, 3, 1), then

    def forward(self, features: Tensor) -> Tensor:
        return self.then(self.conv(features))


def make(then: Callable[[Tensor], Tensor] = torch.relu) -> g2s.GatedModel:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
    heads = {"a": Head(torch.sigmoid), "b": Head(then)}
    gated = g2s.gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 9, 9),), heads=heads).eval()
    with torch.no_grad():
        for parameter in gated.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return gated


def failed(report: g2s.EquivalenceReport) -> set[tuple[str, str]]:
    return {(check.what, check.task) for check in report.checks if not check.passed}


def test_only_the_task_that_is_wrong_fails() -> None:
    gated = make()
    static = g2s.prune(gated)
    with torch.no_grad():
        gated.heads["b"].conv.bias += 0.1
    assert failed(verify(gated, static)) == {("float64", "b"), ("float32", "b")}


def test_a_wrong_weight_that_only_deployment_shows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding is what is deployed, so a wrong fold must fail although the unfolded network is right."""
    gated = make()
    static = g2s.prune(gated)

    def wrong(self: g2s.StaticModel) -> g2s.StaticModel:
        folded = copy.deepcopy(self)
        with torch.no_grad():
            next(folded.parameters()).mul_(1.01)
        return folded

    monkeypatch.setattr(g2s.StaticModel, "deployed", wrong)
    assert {what for what, _ in failed(verify(gated, static))} == {"float32"}


def test_outputs_that_are_nan_on_both_sides_are_not_equal() -> None:
    gated = make(lambda x: torch.log(-x.abs() - 1.0))
    report = verify(gated, g2s.prune(gated))
    assert failed(report) == {("float64", "b"), ("float32", "b")}
    assert report.per_task["b"].max_rel == float("inf")


def test_a_static_network_that_turns_to_nan_fails() -> None:
    gated = make()
    static = g2s.prune(gated)
    with torch.no_grad():
        for parameter in static.parameters():
            parameter.view(-1)[0] = float("nan")
    assert not verify(gated, static).passed


def test_a_difference_at_one_of_the_inputs_is_enough() -> None:
    """The two agree where the head's values are positive and differ elsewhere."""
    gated = make()
    with torch.no_grad():
        gated.heads["b"].conv.bias.fill_(1e3)
    other = copy.deepcopy(gated)
    other.heads["b"].then = torch.abs
    static = g2s.prune(gated)
    # Without its options, the static network is compared by its outputs alone.
    static.manifest = static.manifest.model_copy(update={"pruning": None})
    agree, differ = (torch.rand(2, 3, 9, 9),), (torch.randn(2, 3, 9, 9) * 1e5,)
    assert verify(other, static, inputs=[agree]).passed
    assert not verify(other, static, inputs=[agree, differ]).passed
    assert not verify(other, static, inputs=[differ, agree]).passed


def test_the_report_says_what_was_compared() -> None:
    gated = make()
    report = verify(gated, g2s.prune(gated), inputs=[(torch.randn(5, 3, 9, 9),)])
    assert report.inputs == ((5, 3, 9, 9),)
    assert all(check.reason and check.tolerance > 0 for check in report.checks)
    restored = g2s.EquivalenceReport.model_validate_json(report.model_dump_json())
    assert restored == report


def test_swapped_outputs_of_one_shape_fail() -> None:
    gated = make()
    static = g2s.prune(gated)
    output = next(iter(static.network.graph.find_nodes(op="output")))
    output.args = (tuple(reversed(output.args[0])),)
    static.network.recompile()
    assert len(failed(verify(gated, static))) == 4
