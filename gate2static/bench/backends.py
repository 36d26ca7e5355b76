"""Every backend by name: what kind of source it takes and what opens it."""

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
    """One way to run one kind of source."""

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
"""What takes static networks: every backend but those that run engines."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row to be measured."""

    name: str
    backend: str
    source: Source
    precision: str


def pair_with_backends(sources: Mapping[str, Source], wanted: Sequence[str] | None) -> list[Entry]:
    """Every source on every wanted backend that can run it; a static network is exported to ONNX where needed.

    Args:
        sources: by name, in the order they are compared.
        wanted: None gives each source its own backend: torch for a network, ONNX Runtime on the CPU for ONNX.

    Raises:
        BenchError: an unknown backend, or a source that none of the wanted backends can run.
    """
    if unknown := sorted(set(wanted or ()) - set(BACKENDS)):
        raise BenchError(f"unknown backend {', '.join(unknown)}; allowed: {', '.join(BACKENDS)}")
    entries: list[Entry] = []
    for name, source in sources.items():
        backends = [_own(source)] if wanted is None else [backend for backend in wanted if _runs_on(source, backend)]
        if not backends:
            able = ", ".join(backend for backend in BACKENDS if _runs_on(source, backend))
            raise BenchError(f"{name} cannot run on {', '.join(wanted or ())}; it runs on {able}")
        onnx = _onnx_of(source) if any(_needs_onnx(source, backend) for backend in backends) else None
        for backend in backends:
            converted = onnx if onnx is not None and _needs_onnx(source, backend) else source
            entries.append(Entry(name=name, backend=backend, source=converted, precision=_precision(converted)))
    return entries


def _own(source: Source) -> str:
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
    widths = {p.element_size() * 8 for p in source.network.parameters() if p.is_floating_point()}
    return f"fp{min(widths, default=32)}"
