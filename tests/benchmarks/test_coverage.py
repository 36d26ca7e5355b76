"""The coverage harness says what fails, and only that."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from benchmarks.coverage import case
from gate2static.gates import Gate


class Tiny(nn.Module):
    """Two convolutions with norms and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.second, self.linear = nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.linear((x + torch.relu(self.second(x))).mean((2, 3)))


@pytest.fixture
def run() -> Callable[[], dict[str, Any]]:
    """Runs the tiny network through the harness; the columns that the test does not look at are left out."""
    return lambda: case.run_network(Tiny().eval(), torch.randn(2, 3, 16, 16), skip=("onnx", "load"))


def test_a_network_that_works_passes_and_loses_all_that_can_be_removed(run: Callable[[], dict[str, Any]]) -> None:
    result = run()
    assert set(result["columns"].values()) == {"ok"}, result["columns"]
    assert result["removed"] == 1.0


def test_a_wrong_weight_in_the_static_network_is_reported_where_it_shows(
    run: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = g2s.prune

    def wrong(gated: g2s.GatedModel) -> g2s.StaticModel:
        static = prune(gated)
        with torch.no_grad():
            next(static.network.parameters()).mul_(1.001)
        return static

    monkeypatch.setattr(g2s, "prune", wrong)
    failed = {name: error for name, error in run()["columns"].items() if error != "ok"}
    assert list(failed) == ["equivalence"]
    assert "does not compute what the gated one does" in failed["equivalence"]


def test_a_wrong_prediction_is_reported(run: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = g2s.expected_macs
    monkeypatch.setattr(g2s, "expected_macs", lambda gated: expected(gated) + 1)
    failed = {name: error for name, error in run()["columns"].items() if error != "ok"}
    assert list(failed) == ["macs"]


def test_gates_without_a_gradient_are_reported(
    run: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities = Gate.probabilities
    monkeypatch.setattr(Gate, "probabilities", lambda self: probabilities(self).detach())
    assert run()["columns"]["train"].startswith("3 of 3 gates get no gradient")


def test_a_network_that_cannot_be_traced_stops_at_its_first_column(run: Callable[[], dict[str, Any]]) -> None:
    Tiny.forward, before = (lambda self, x: before(self, x) if x.sum() > 0 else x), Tiny.forward
    try:
        columns = run()["columns"]
    finally:
        Tiny.forward = before
    assert list(columns) == ["gate"]
    assert columns["gate"].startswith("TraceError: torch.fx cannot trace the backbone")
