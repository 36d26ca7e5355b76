"""The estimate of a planned network's latency knows what moving channels costs."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import gate2static as g2s
from gate2static.prune import estimate, estimated_latency, plan
from gate2static.report import expected_to_be_slow

TASKS = ("a", "b", "c")


def gated(share: float, **options: object) -> g2s.GatedModel:
    """A small ResNet-18 with random gates."""
    torch.manual_seed(0)
    backbone = resnet18()
    backbone.fc = nn.Identity()  # type: ignore[assignment]  # torchvision types it as a Linear
    heads = {task: nn.Linear(512, 3) for task in TASKS}
    model = g2s.gate(backbone, tasks=TASKS, example_inputs=(torch.randn(2, 3, 64, 64),), heads=heads, **options)  # type: ignore[arg-type]  # options of several types
    drawn = {unit: torch.rand(gate.alpha.shape) < share for unit, gate in model.gates.items()}
    g2s.set_gates(model, drawn)
    return model.eval()


@pytest.mark.slow
def test_channels_that_move_one_by_one_are_cautioned_against_and_whole_layers_are_not() -> None:
    slow, fast = plan(gated(0.6)), plan(gated(0.3, preset="deploy"))
    assert estimated_latency(slow) > 1.02
    (sentence,) = expected_to_be_slow(slow)
    assert "times the latency of separate networks" in sentence
    assert estimated_latency(fast) < 0.9
    assert expected_to_be_slow(fast) == ()


def test_separate_networks_are_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gated(1.1, preset="deploy")
    monkeypatch.setattr(estimate, "traffic", lambda *_: pytest.fail("estimated"))
    assert expected_to_be_slow(plan(model)) == ()
