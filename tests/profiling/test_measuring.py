"""Profiles: every kind of kernel runs on ONNX Runtime and torch, and a table knows its networks."""

from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from gate2static import benchmark, gate, prune, set_gates
from gate2static.bench import BACKENDS
from gate2static.bench.sources import EngineSource, OnnxSource, TorchSource
from gate2static.bench.timing import time_runs
from gate2static.errors import BenchError
from gate2static.latency.kernel_kinds import Kernel
from gate2static.latency.kernels import REORDER, UNALIGNED, Backend, lower
from gate2static.latency.operators import record
from gate2static.profiling import measuring as profiling
from gate2static.profiling import networks as profiled_networks
from gate2static.profiling import profile, profile_for, profile_gated, profile_table
from gate2static.profiling.kernel_networks import MEAN, repeated
from gate2static.profiling.node_networks import KernelNetwork
from gate2static.prune import TARGETS

KERNELS = [
    Kernel(kind="convolution 3×3/2", sizes=(16, 16, 16)),
    Kernel(kind="depth-wise convolution 5×5/1", sizes=(16, 16)),
    Kernel(kind=f"depth-wise convolution 3×3/1{UNALIGNED}", sizes=(16, 17)),
    Kernel(kind="transposed convolution 2×2/2", sizes=(16, 8, 8)),
    Kernel(kind="linear", sizes=(5, 8, 4)),
    Kernel(kind="matmul", sizes=(2, 5, 8, 5)),
    *(Kernel(kind=kind, sizes=(6, 64)) for kind in ("concat", "slice", "gather")),
    *(
        Kernel(kind=kind, sizes=(10**4,))
        for kind in (
            "add",
            "multiply",
            "relu",
            "gelu",
            "sigmoid",
            "silu",
            "hardsigmoid",
            "hardswish",
            "copy",
            "softmax",
        )
    ),
    *(Kernel(kind=kind, sizes=(10**4,)) for kind in ("norm", "pool", "reduce", "transpose", REORDER, MEAN)),
]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node of a network takes a millisecond; nothing runs."""
    monkeypatch.setattr(profiling, "_network_ms", lambda network, backend, threads: float(len(network.nodes)))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.kind)
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_every_kind_of_kernel_runs_on_onnx_and_on_torch(kernel: Kernel, backend: str) -> None:
    source = repeated(kernel, 2).source(BACKENDS[backend].takes)
    with BACKENDS[backend].open(source, batch_size=1, threads=1) as runner:
        assert time_runs(runner.run, warmup_s=0, duration_s=0, min_runs=1)[0] > 0


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.kind)
def test_onnx_and_torch_run_the_same_kernel(kernel: Kernel) -> None:
    network = repeated(kernel, 2)
    sources = network.source(TorchSource), network.source(OnnxSource)
    assert isinstance(sources[0], TorchSource)
    inputs = sources[0].inputs(1)
    from gate2static.runtimes.onnxruntime import open_session

    found = open_session(sources[1].data).run(None, dict(zip(network.inputs, (x.numpy() for x in inputs), strict=True)))
    for ours, theirs in zip(sources[0].network(*inputs), found, strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs).reshape(ours.shape), rtol=1e-3, atol=1e-4)


def test_more_copies_are_more_of_the_same() -> None:
    one, three = (repeated(KERNELS[0], copies) for copies in (1, 3))
    assert len(three.nodes) == 3 * len(one.nodes)
    assert one.inputs == three.inputs


def test_a_profile_knows_every_kernel_of_its_network_and_gives_it_its_own_time(made_up: None) -> None:
    network = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.Flatten(), nn.Linear(256, 4))
    table = profile([(network, (torch.ones(1, 3, 4, 4),))], threads=1, progress=False)
    assert {"convolution 3×3/1", "convolution 1×1/1", "linear", REORDER} <= {grid.kind for grid in table.grids}
    assert table.predict_ms(network, (torch.ones(1, 3, 4, 4),)) > 0
    assert (table.backend, table.threads, table.estimated) == ("onnxruntime", 1, False)
    [relu] = [grid for grid in table.grids if grid.kind == "relu"]
    assert relu.ms == (1.0,) * len(relu.ms)
    assert table.name in str(profile_table(table).title)
    assert table.name.endswith(", 1 thread")


@pytest.mark.parametrize("channels", [16, 17])
def test_a_profile_knows_depthwise_layers_with_any_number_of_channels(channels: int, made_up: None) -> None:
    """Gates leave odd numbers; a budget in latency meets them in the middle of a training."""
    layer = nn.Conv2d(channels, channels, 3, groups=channels).eval()
    table = profile([(layer, (torch.zeros(1, channels, 8, 8),))], backend="onnxruntime", progress=False)
    for other in (5, 16, 17, 32):
        made = nn.Conv2d(other, other, 3, groups=other).eval()
        assert table.predict_ms(made, (torch.zeros(1, other, 8, 8),)) > 0


def test_cells_too_large_to_measure_grow_in_proportion(made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[KernelNetwork] = []
    monkeypatch.setattr(profiling, "repeated", lambda kernel, copies: timed.append(kernel) or repeated(kernel, copies))
    network = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 256, 1))
    inputs = (torch.ones(1, 16, 8, 8),)
    table = profile([(network, inputs), (nn.Conv2d(256, 16, 1), (torch.ones(1, 256, 8, 8),))], progress=False)
    [grid] = [grid for grid in table.grids if grid.kind == "convolution 1×1/1"]
    assert (64, 256, 256) not in {kernel.sizes for kernel in timed}
    assert grid.at((64, 256, 256)) == pytest.approx(16 * grid.at((64, 256, 16)))


@pytest.mark.slow
def test_a_gated_network_is_profiled_from_one_backbone_to_separate_ones(
    made_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        profiled_networks, "benchmark", lambda *args, **how: benchmark(*args, **how | {"rounds": 2, "duration_s": 0.1})
    )
    gated = gate(
        nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten()),
        tasks=["a", "b"],
        example_inputs=(torch.zeros(2, 3, 8, 8),),
        heads={task: nn.Linear(512, 2) for task in ("a", "b")},
        gate_init_std=0.5,
    ).eval()
    before = {name: unit.alpha.clone() for name, unit in gated.gates.items()}
    table = profile_gated(gated, backend="onnxruntime", threads=1)
    assert all(torch.equal(unit.alpha, before[name]) for name, unit in gated.gates.items())
    # Every kernel is said to take a millisecond, which none does.
    assert (table.layer_factor, table.movement_factor) != (1.0, 1.0)
    for decisions in (False, True):
        set_gates(gated, decisions)
        static = prune(gated)
        assert 0 < table.predict_ms(static.deployed(), static.example_inputs()) < 100


@pytest.mark.slow
def test_a_profile_knows_networks_that_are_laid_out_for_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that convolutions move are kernels that no other static network has."""
    whole = MagicMock()
    monkeypatch.setattr(profiled_networks, "_profile_whole", whole)
    monkeypatch.setitem(TARGETS, "ort-cpu", replace(TARGETS["ort-cpu"], layouts=TARGETS["ort-cpu"].layouts[-1:]))  # type: ignore[arg-type]
    backbone = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(1))
    heads = {task: nn.Linear(32 * 12 * 12, 2) for task in ("left", "right")}
    gated = gate(backbone, tasks=tuple(heads), example_inputs=(torch.zeros(2, 3, 16, 16),), heads=heads)
    profile_gated(gated, backend="onnxruntime", threads=1)
    operators = [record(static.deployed(), static.example_inputs(1)) for static in whole.call_args.args[0]]
    kinds = {kernel.kind for network in operators for step in lower(network, "onnxruntime") for kernel in step.kernels}
    assert "depth-wise convolution 1×1/1" in kinds


def test_a_backend_that_cannot_profile_is_refused_before_anything_is_pruned(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="kernels cannot be profiled on 'tensorrt'"):
        profile_for(tmp_path / "missing.pt", backend="tensorrt", threads=1)


@pytest.mark.parametrize("backend", ["abacus", "tensorrt"])
def test_a_backend_that_cannot_profile_is_answered_with_those_that_can(backend: str) -> None:
    with pytest.raises(BenchError, match=f"kernels cannot be profiled on '{backend}'; allowed: torch, .*onnxruntime"):
        profile([], backend=backend)


def test_every_backend_that_runs_more_than_engines_can_be_profiled() -> None:
    here = {name for name, known in BACKENDS.items() if known.takes is not EngineSource}
    assert set(get_args(Backend)) == {*here, "tensorrt"}, "trtexec times the kernels of TensorRT on a board"


@pytest.mark.parametrize("threads", [0, -3])
def test_too_few_threads_are_refused_before_anything_is_measured(threads: int) -> None:
    with pytest.raises(BenchError, match=f"threads is {threads}; allowed is a whole number from 1"):
        profile([], threads=threads)


def test_a_network_without_operators_cannot_be_profiled() -> None:
    with pytest.raises(BenchError, match="nothing to profile"):
        profile([(nn.Identity(), (torch.ones(1),))])
