"""A stopwatch compares networks that are never timed in one run."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gate2static as g2s
from gate2static.bench import stopwatch
from gate2static.errors import BenchError


@pytest.fixture(scope="module")
def gated() -> g2s.GatedModel:
    backbone = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(1))
    heads = {task: nn.Linear(32 * 28 * 28, 2) for task in ("left", "right", "mask")}
    return g2s.gate(backbone, tasks=tuple(heads), example_inputs=(torch.zeros(2, 3, 32, 32),), heads=heads)


@pytest.mark.slow
def test_three_networks_take_longer_than_one(gated: g2s.GatedModel) -> None:
    watch = g2s.Stopwatch("onnxruntime", rounds=3, duration_s=0.1, threads=1)
    g2s.set_gates(gated, False)
    one = watch(g2s.prune(gated))
    g2s.set_gates(gated, True)
    assert watch(g2s.prune(gated)) > 1.3 * one > 0


def test_a_machine_that_slows_down_changes_nothing(gated: g2s.GatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter((1.0, 2.0))

    def slower_each_time(targets: tuple[g2s.StaticModel, ...], **options: object) -> SimpleNamespace:
        speed = next(speeds)
        latencies = [SimpleNamespace(median_ms=speed * 5 * (1 + index)) for index in range(len(targets))]
        return SimpleNamespace(targets=latencies, ratio=lambda target: target.median_ms / latencies[0].median_ms)

    monkeypatch.setattr(stopwatch, "benchmark", slower_each_time)
    watch = g2s.Stopwatch("onnxruntime")
    static = g2s.prune(gated)
    assert watch(static) == 5
    assert watch(static) == 10  # not 20: beside it, the first took twice as long as before


@pytest.mark.parametrize("backend", ["abacus", "tensorrt"])
def test_a_backend_that_times_no_static_networks_is_refused_at_once(backend: str) -> None:
    with pytest.raises(BenchError, match=f"not timed on '{backend}'; allowed: torch, .*onnxruntime"):
        g2s.Stopwatch(backend)
