"""The GPU runners without a GPU: torch's CUDA calls and TensorRT replaced by stand-ins that keep the rules.

What a stand-in cannot show is speed; what it shows is order: bind before run, warm up before capture, replay on the
stream that the events are on, read the events only after synchronising.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gate2static.bench.runners import cuda_timing
from gate2static.bench.runners import onnxruntime_cuda as onnxruntime_cuda_runner
from gate2static.bench.runners import tensorrt as tensorrt_runner
from gate2static.bench.runners import torch_cuda as torch_cuda_runner
from gate2static.bench.sources import EngineSource, OnnxSource, TorchSource
from gate2static.errors import BenchError
from gate2static.export.engine_sidecar import EngineSidecar, EngineTensor
from gate2static.runtimes.tensorrt import TrtLibrary


class FakeStream:
    """A queue: work is done when it is synchronised, and a clock of 1 ms a launch."""

    current: "FakeStream | None" = None
    now_ms = 0.0
    cuda_stream = 4711

    def __init__(self) -> None:
        self.pending: list[FakeEvent] = []

    def synchronize(self) -> None:
        for event in self.pending:
            event.done = True
        self.pending.clear()


class FakeEvent:
    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.done, self.at_ms = False, 0.0

    def record(self, stream: FakeStream) -> None:
        self.at_ms, self.done = FakeStream.now_ms, False
        stream.pending.append(self)

    def elapsed_time(self, end: "FakeEvent") -> float:
        assert self.done, "an event was read before the stream was synchronised"
        assert end.done
        return end.at_ms - self.at_ms


class FakeGraph:
    def __init__(self) -> None:
        self.stream: FakeStream | None = None

    def replay(self) -> None:
        assert FakeStream.current is self.stream, "the replay is not on the stream that the events are on"
        FakeStream.now_ms += 1.0


@contextmanager
def fake_stream_context(stream: FakeStream) -> Iterator[None]:
    before, FakeStream.current = FakeStream.current, stream
    try:
        yield
    finally:
        FakeStream.current = before


@contextmanager
def fake_capture(graph: FakeGraph, *, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local"
    graph.stream = stream
    with fake_stream_context(stream):
        yield


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeStream.current, FakeStream.now_ms = None, 0.0
    replacements = {
        "is_available": lambda: True,
        "get_device_capability": lambda: (8, 9),
        "synchronize": lambda: None,
        "Stream": FakeStream,
        "Event": FakeEvent,
        "CUDAGraph": FakeGraph,
        "stream": fake_stream_context,
        "graph": fake_capture,
    }
    for name, value in replacements.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    for module in (cuda_timing, torch_cuda_runner, onnxruntime_cuda_runner, tensorrt_runner):
        monkeypatch.setattr(module, "DEVICE", "cpu", raising=False)


class Counting(nn.Module):
    """Doubles its input; every launch takes a millisecond of the fake clock."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        FakeStream.now_ms += 1.0
        Counting.total += 1
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.benchmark
        return {"a": 2 * x}

    total = 0


def torch_source() -> TorchSource:
    return TorchSource(network=Counting(), inputs=lambda batch_size: (torch.ones(batch_size, 3),))


def test_eager_torch_is_timed_launch_by_launch() -> None:
    with torch_cuda_runner.open_torch_cuda(torch_source(), batch_size=2, threads=1) as runner:
        assert list(runner.run()) == [1.0] * 10


def test_a_captured_network_is_warmed_up_then_only_replayed() -> None:
    Counting.total = 0
    with torch_cuda_runner.open_torch_cuda_graph(torch_source(), batch_size=2, threads=1) as runner:
        launches = Counting.total
        assert list(runner.run()) == [1.0] * 10
        assert Counting.total == launches == 4  # once for its outputs, two warm-ups, one capture


def test_a_network_that_cannot_be_captured_names_the_other_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with (
        pytest.raises(BenchError, match=r"cannot be captured .* not permitted .* torch-cuda backend"),
        torch_cuda_runner.open_torch_cuda_graph(torch_source(), batch_size=2, threads=1),
    ):
        pass


def test_transfers_are_timed_apart() -> None:
    with torch_cuda_runner.open_torch_cuda(torch_source(), batch_size=2, threads=1) as runner:
        assert runner.transfer is not None
        assert runner.transfer().upload_ms == runner.transfer().download_ms == 0.0


def test_onnx_runtime_runs_on_our_stream_without_synchronising(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    session = FakeSession()

    def open_session(data: bytes, *, label: str, provider_options: dict[str, str], error: Any) -> Any:
        made.update(provider_options)
        return session

    monkeypatch.setattr(onnxruntime_cuda_runner, "open_cuda_session", open_session)
    source = OnnxSource(data=b"", label="m")
    with onnxruntime_cuda_runner.open_onnxruntime_cuda(source, batch_size=2, threads=1) as runner:
        assert list(runner.run()) == [1.0] * 10
        assert runner.transfer is not None
        runner.transfer()
    assert made["user_compute_stream"] == "4711"
    assert session.bound == {"x": ("cuda", 0, np.dtype("float32"), (2, 3)), "y": ("cuda", 0)}


class FakeSession:
    """Refuses to run before everything is bound or when it would wait for the GPU."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=["batch", 3])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=["batch", 3])]

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={})

    def io_binding(self) -> Any:
        return SimpleNamespace(
            bind_input=lambda name, device, index, dtype, shape, pointer: self.bound.update(
                {name: (device, index, dtype, shape)}
            ),
            bind_output=lambda name, device, index: self.bound.update({name: (device, index)}),
            get_outputs=lambda: [SimpleNamespace(shape=lambda: [2, 3])],
        )

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        assert set(self.bound) == {"x", "y"}
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        FakeStream.now_ms += 1.0


class FakeContext:
    """TensorRT's rules: shapes first, then addresses of every tensor, then run, on the stream that was made for it."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.runs = 0
        self.works = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[1:] == (3, 4, 4)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shapes, "output shapes are known only once the inputs' are set"
        return (self.shapes["image"][0], 5)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == FakeStream.cuda_stream
        assert set(self.addresses) == {"image", "a"}
        self.runs += 1
        FakeStream.now_ms += 1.0
        return self.works


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


@pytest.fixture
def engine(tmp_path: Path) -> EngineSource:
    (tmp_path / "model.engine").write_bytes(b"plan")
    sidecar = EngineSidecar(
        backend="tensorrt",
        library_version="11.4",
        sha256="0" * 64,
        size_bytes=4,
        onnx_sha256="0" * 64,
        digest=None,
        precision="fp16",
        compute_capabilities=("8.9",),
        batch=(1, 2, 4),
        inputs=(EngineTensor(name="image", shape=(-1, 3, 4, 4), dtype="float"),),
        outputs=(EngineTensor(name="a", shape=(-1, 5), dtype="half"),),
    )
    return EngineSource(path=tmp_path / "model.engine", sidecar=sidecar)


def use_library(monkeypatch: pytest.MonkeyPatch, engine: Any, **extra: Any) -> TrtLibrary:
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if data == b"plan" else None)
    module = SimpleNamespace(__version__="11.4", Runtime=lambda logger: runtime, **extra)
    library = TrtLibrary("tensorrt", module, None)
    monkeypatch.setattr(tensorrt_runner, "trt_library", lambda _: library)
    return library


def test_tensorrt_is_warmed_up_captured_and_replayed(
    monkeypatch: pytest.MonkeyPatch, engine: EngineSource, context: FakeContext
) -> None:
    use_library(monkeypatch, SimpleNamespace(create_execution_context=lambda: context))
    with tensorrt_runner.open_tensorrt(engine, batch_size=4, threads=1) as runner:
        assert context.shapes == {"image": (4, 3, 4, 4)}
        assert context.runs == 3  # two warm-ups and the capture
        assert list(runner.run()) == [1.0] * 10
        assert context.runs == 3


def test_tensorrt_rtx_captures_for_itself_with_kernels_specialised_at_once(
    monkeypatch: pytest.MonkeyPatch, engine: EngineSource, context: FakeContext
) -> None:
    config = SimpleNamespace(cuda_graph_strategy=None, dynamic_shapes_kernel_specialization_strategy=None)
    use_library(
        monkeypatch,
        SimpleNamespace(
            create_runtime_config=lambda: config,
            create_execution_context=lambda given: context if given is config else None,
        ),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    with tensorrt_runner.open_tensorrt(engine, batch_size=1, threads=1) as runner:
        assert list(runner.run()) == [1.0] * 10
        assert context.runs == 10
    assert (config.cuda_graph_strategy, config.dynamic_shapes_kernel_specialization_strategy) == ("whole", "eager")


def test_the_names_tensorrt_rtx_is_asked_for_exist() -> None:
    library = pytest.importorskip("tensorrt_rtx")
    assert library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert library.DynamicShapesKernelSpecializationStrategy.EAGER
    for owner, names in (
        (library.ICudaEngine, ["create_runtime_config", "create_execution_context"]),
        (library.IRuntimeConfig, ["cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"]),
        (library.IExecutionContext, ["set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"]),
        (library.Runtime, ["deserialize_cuda_engine"]),
    ):
        assert [name for name in names if not hasattr(owner, name)] == []
    assert {name.lower() for name in ("FLOAT", "HALF", "BF16", "INT8", "UINT8", "INT32", "INT64", "BOOL")} == set(
        tensorrt_runner._DTYPES
    )


@pytest.mark.parametrize("batch_size", [5, 9])
def test_a_batch_size_outside_the_profile_is_refused(engine: EngineSource, batch_size: int) -> None:
    with (
        pytest.raises(BenchError, match=rf"model\.engine takes batch sizes 1 to 4, not {batch_size}"),
        tensorrt_runner.open_tensorrt(engine, batch_size=batch_size, threads=1),
    ):
        pass


def test_an_engine_for_another_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, engine: EngineSource) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 0))
    with (
        pytest.raises(BenchError, match=r"built for compute capability 8\.9, and this GPU has 12\.0"),
        tensorrt_runner.open_tensorrt(engine, batch_size=1, threads=1),
    ):
        pass


def test_an_engine_that_does_not_load_gives_the_librarys_reason(
    monkeypatch: pytest.MonkeyPatch, engine: EngineSource
) -> None:
    library = use_library(monkeypatch, None)
    load = library.module.Runtime(None).deserialize_cuda_engine

    def failing(data: bytes) -> Any:
        library.messages.append("Serialization assertion: version tag does not match")
        return load(data)

    library.module.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=failing)
    with (
        pytest.raises(BenchError, match=r"cannot load model\.engine, built with 11\.4: Serialization assertion"),
        tensorrt_runner.open_tensorrt(engine, batch_size=1, threads=1),
    ):
        pass


def test_an_engine_that_fails_while_running_is_an_error(
    monkeypatch: pytest.MonkeyPatch, engine: EngineSource, context: FakeContext
) -> None:
    context.works = False
    use_library(monkeypatch, SimpleNamespace(create_execution_context=lambda: context))
    with (
        pytest.raises(BenchError, match=r"model\.engine failed while running"),
        tensorrt_runner.open_tensorrt(engine, batch_size=1, threads=1),
    ):
        pass
