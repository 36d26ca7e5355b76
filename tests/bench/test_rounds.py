"""Benchmarks in rounds: networks take turns, one session at a time, on the real backends of a CPU."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from gate2static.bench import BACKENDS, benchmark
from gate2static.bench import backends as backends_module
from gate2static.bench.backends import Backend
from gate2static.bench.report import Transfers
from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import OnnxSource, TorchSource, named_sources
from gate2static.errors import BenchError, ExportError, MissingDependencyError
from gate2static.static import StaticModel

QUICK: dict[str, Any] = {"rounds": 2, "warmup_s": 0.0, "duration_s": 0.0, "min_runs": 4}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces ONNX Runtime by a backend that only writes down when it was opened, run and closed."""
    events: list[str] = []

    @contextmanager
    def open_fake(source: OnnxSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
        name = source.label
        events.append(f"open {name}")
        yield Runner(
            run=lambda: events.append(f"run {name}") or (7.0,),
            transfer=lambda: Transfers(upload_ms=1.0, download_ms=2.0),
        )
        events.append(f"close {name}")

    monkeypatch.setitem(backends_module.BACKENDS, "onnxruntime", Backend(takes=OnnxSource, open=open_fake))
    return events


def test_targets_are_interleaved_in_rounds_and_closed_before_the_next_one_opens(
    log: list[str], make_onnx: Callable[..., Path]
) -> None:
    benchmark([make_onnx("a.onnx"), make_onnx("b.onnx")], rounds=3, warmup_s=0, duration_s=0, min_runs=3)

    def turn(name: str) -> list[str]:
        return [f"open {name}", f"run {name}", f"run {name}", f"close {name}"]  # one run warms up, one counts

    assert log == [event for name in "ab" + "ba" + "ab" for event in turn(f"{name}.onnx")]


def test_transfers_are_reported_apart_from_latency(log: list[str], make_onnx: Callable[..., Path]) -> None:
    [target] = benchmark([make_onnx()], **QUICK).targets
    assert target.transfers == Transfers(upload_ms=1.0, download_ms=2.0)
    assert target.rounds_ms == ((7.0, 7.0), (7.0, 7.0))


def test_torch_and_onnx_runtime_are_timed_for_real(make_onnx: Callable[..., Path], module: Any) -> None:
    report = benchmark({"net": module, "product": make_onnx()}, batch_size=2, threads=1, progress=False, **QUICK)
    assert [(t.name, t.backend, t.precision) for t in report.targets] == [
        ("net", "torch", "fp32"),
        ("product", "onnxruntime", "fp32"),
    ]
    assert all(t.runs == 4 and t.median_ms > 0 and t.transfers is None for t in report.targets)
    assert report.environment.threads == 1


def test_a_static_folder_runs_on_torch_and_through_onnx(static: StaticModel, tmp_path: Path) -> None:
    static.save(tmp_path / "gated" / "static")
    report = benchmark([tmp_path / "gated" / "static"], backends=["torch", "onnxruntime"], batch_size=3, **QUICK)
    assert [(t.name, t.backend) for t in report.targets] == [
        ("gated/static", "torch"),
        ("gated/static", "onnxruntime"),
    ]


def test_a_static_network_is_timed_with_its_norms_folded(static: StaticModel) -> None:
    [source] = named_sources([static]).values()
    assert isinstance(source, TorchSource)
    operators = [str(node.target) for node in source.network.network.graph.nodes]
    assert any("conv2d" in name for name in operators)
    assert not any("batch_norm" in name for name in operators)


def test_a_slower_network_is_measured_as_slower(make_onnx: Callable[..., Path]) -> None:
    small, large = make_onnx("small.onnx", size=8), make_onnx("large.onnx", size=512)
    report = benchmark([small, large], rounds=3, warmup_s=0.01, duration_s=0.1, threads=1)
    assert report.ratio(report["large.onnx"]) > 5


def test_no_session_outlives_its_turn(make_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = [0]
    create = onnxruntime.InferenceSession.__init__

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        alive.add(self)
        most[0] = max(most[0], len(alive))

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", counted)
    gc.disable()  # closing must not wait for a collection
    try:
        benchmark([make_onnx("1.onnx"), make_onnx("2.onnx")], **QUICK)
    finally:
        gc.enable()
    assert most[0] == 1


def test_torchs_thread_count_comes_back(module: Any) -> None:
    before = torch.get_num_threads()
    benchmark([module], threads=before + 1, **QUICK)
    assert torch.get_num_threads() == before


def test_a_module_is_repeated_to_the_batch_size() -> None:
    seen: list[int] = []

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return x

    benchmark([(Watch(), (torch.ones(2, 3),))], batch_size=5, **QUICK)
    assert set(seen) == {5}


def test_files_of_one_name_are_told_apart_by_their_folder(make_onnx: Callable[..., Path]) -> None:
    paths = [make_onnx("shared/model.onnx"), make_onnx("gated/model.onnx"), make_onnx("other.onnx")]
    assert [t.name for t in benchmark(paths, **QUICK).targets] == [
        "shared/model.onnx",
        "gated/model.onnx",
        "other.onnx",
    ]


def test_nothing_in_a_report_names_the_folder(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    report = benchmark([make_onnx()], **QUICK)
    assert tmp_path.name not in report.model_dump_json()


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ([], {}, "nothing to time"),
        (["nowhere.onnx"], {}, r"cannot read the ONNX file nowhere\.onnx: No such file"),
        (["model.pt"], {}, r"model\.pt cannot be timed: it is missing; allowed: a static folder"),
        (["m.onnx"], {"rounds": 0}, "rounds is 0; allowed is a whole number from 1"),
        (["m.onnx"], {"duration_s": -1}, "duration_s is -1; allowed is a finite number at least 0"),
        (["m.onnx"], {"threads": 0}, "threads is 0"),
    ],
)
def test_bad_arguments_are_one_clear_line(targets: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        benchmark(targets, **options)


def test_an_unknown_backend_is_answered_with_the_known_ones(make_onnx: Callable[..., Path]) -> None:
    with pytest.raises(BenchError, match=f"unknown backend abacus; allowed: {', '.join(BACKENDS)}"):
        benchmark([make_onnx()], backends=["abacus"])


def test_a_target_no_wanted_backend_can_run_is_answered_with_those_that_can(make_onnx: Callable[..., Path]) -> None:
    with pytest.raises(BenchError, match=r"model\.onnx cannot run on torch; it runs on onnxruntime, openvino"):
        benchmark([make_onnx()], backends=["torch"])


def test_a_truncated_onnx_file_is_one_clear_line(make_onnx: Callable[..., Path]) -> None:
    path = make_onnx()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ExportError, match=r"model\.onnx.* is not a complete ONNX model") as caught:
        benchmark([path], **QUICK)
    assert "\n" not in str(caught.value)


def test_a_network_that_fails_while_running_is_named(module: Any) -> None:
    network, _ = module
    with pytest.raises(BenchError, match=r"net failed on torch at batch size 1: .*expected input"):
        benchmark({"net": (network, (torch.ones(1, 7, 8, 8),))}, **QUICK)


@pytest.mark.parametrize(
    ("shape", "message"),
    [({"batch": 3}, "fixed batch size 3, not 2"), ({"size": "side"}, "only the first dimension varying")],
)
def test_inputs_that_cannot_be_made_up_are_refused(
    make_onnx: Callable[..., Path], shape: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        benchmark([make_onnx(**shape)], batch_size=2, **QUICK)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("backend", ["torch-cuda", "torch-cuda-graph", "onnxruntime-cuda"])
def test_a_gpu_backend_without_a_gpu_says_so(make_onnx: Callable[..., Path], module: Any, backend: str) -> None:
    target = make_onnx() if backend.startswith("onnx") else module
    with pytest.raises(MissingDependencyError, match="needs an NVIDIA GPU"):
        benchmark([target], backends=[backend], **QUICK)


def test_timing_says_nothing_where_stderr_is_no_terminal(
    make_onnx: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    benchmark([make_onnx()], **QUICK)
    assert capfd.readouterr() == ("", "")
