"""The backends by name, each with the kind of source that it runs."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from gate2static.bench.runners.onnxruntime_cpu import open_onnxruntime_cpu
from gate2static.bench.runners.onnxruntime_cuda import open_onnxruntime_cuda
from gate2static.bench.runners.openvino import open_openvino_cpu
from gate2static.bench.runners.runner import OpenRunner
from gate2static.bench.runners.tensorrt import open_tensorrt
from gate2static.bench.runners.torch_compiled import open_torch_compiled
from gate2static.bench.runners.torch_cpu import open_torch_cpu
from gate2static.bench.runners.torch_cuda import open_torch_cuda, open_torch_cuda_graph
from gate2static.bench.sources import EngineSource, OnnxSource, Source, TorchSource
from gate2static.errors import BenchError
from gate2static.export import export_onnx
from gate2static.runtimes.onnx_file import load_onnx, precision_of


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A backend that runs one kind of source.

    Attributes:
        takes: The kind of source.
        open: Loads a source and returns a runner.
    """

    takes: type[Source]
    open: OpenRunner


BACKENDS: Mapping[str, Backend] = {
    "torch": Backend(takes=TorchSource, open=open_torch_cpu),
    "torch-compiled": Backend(takes=TorchSource, open=open_torch_compiled),
    "torch-cuda": Backend(takes=TorchSource, open=open_torch_cuda),
    "torch-cuda-graph": Backend(takes=TorchSource, open=open_torch_cuda_graph),
    "onnxruntime": Backend(takes=OnnxSource, open=open_onnxruntime_cpu),
    "openvino": Backend(takes=OnnxSource, open=open_openvino_cpu),
    "onnxruntime-cuda": Backend(takes=OnnxSource, open=open_onnxruntime_cuda),
    "tensorrt": Backend(takes=EngineSource, open=open_tensorrt),
    "tensorrt-rtx": Backend(takes=EngineSource, open=open_tensorrt),
}


NETWORK_BACKENDS = tuple(name for name, backend in BACKENDS.items() if backend.takes is not EngineSource)
"""The backends that run static networks: all except those that run engines."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network on one backend, to be timed.

    Attributes:
        name: The network's name in the report.
        backend: The backend's name.
        source: The network, in the form that the backend takes.
        precision: `fp32`, `fp16`, `int8` or another floating-point width of torch.
    """

    name: str
    backend: str
    source: Source
    precision: str


def pair_with_backends(sources: Mapping[str, Source], selected: Sequence[str] | None) -> list[Entry]:
    """Pairs every source with every selected backend that can run it; exports static networks to ONNX where needed.

    Args:
        sources: The sources by name, in the order of comparison.
        selected: The backends' names. None selects one backend per source: torch for a network, ONNX Runtime on the CPU
            for an ONNX file, and an engine's own library.

    Raises:
        BenchError: A backend is unknown, or none of the selected backends can run a source.
    """
    if unknown := sorted(str(name) for name in selected or () if name not in BACKENDS):
        raise BenchError(f"unknown backend {', '.join(unknown)}; allowed: {', '.join(BACKENDS)}")
    entries: list[Entry] = []
    for name, source in sources.items():
        if selected is None:
            backends = [_default_backend(source)]
        else:
            backends = [backend for backend in selected if _runs_on(source, backend)]
        if not backends:
            able = ", ".join(backend for backend in BACKENDS if _runs_on(source, backend))
            raise BenchError(f"{name} cannot run on {', '.join(selected or ())}; it runs on {able}")
        # One export serves all backends that take ONNX.
        onnx = _onnx_of(source) if any(_needs_onnx(source, backend) for backend in backends) else None
        for backend in backends:
            runnable = onnx if onnx is not None and _needs_onnx(source, backend) else source
            entries.append(Entry(name=name, backend=backend, source=runnable, precision=_precision(runnable)))
    return entries


def _default_backend(source: Source) -> str:
    if isinstance(source, EngineSource):
        return source.sidecar.backend
    return "torch" if isinstance(source, TorchSource) else "onnxruntime"


def _runs_on(source: Source, backend: str) -> bool:
    if isinstance(source, EngineSource):
        return backend == source.sidecar.backend
    return isinstance(source, BACKENDS[backend].takes) or (_needs_onnx(source, backend) and source.static is not None)


def _needs_onnx(source: Source, backend: str) -> TypeGuard[TorchSource]:
    return isinstance(source, TorchSource) and BACKENDS[backend].takes is OnnxSource


def _onnx_of(source: Source) -> OnnxSource:
    assert isinstance(source, TorchSource)
    assert source.static is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(source.static, path)
        return OnnxSource(data=path.read_bytes(), label="the exported network")


def _precision(source: Source) -> str:
    if isinstance(source, EngineSource):
        return source.sidecar.precision
    if isinstance(source, OnnxSource):
        return precision_of(load_onnx(source.data, Path(source.label)))
    # Integer parameters, such as indices, say nothing about the precision.
    widths = {p.element_size() * 8 for p in source.network.parameters() if p.is_floating_point()}
    return f"fp{min(widths, default=32)}"
