"""ONNX -> TensorRT or TensorRT-RTX engine: one code path, two modules, precision taken from the graph."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate2static.arguments import require_path
from gate2static.errors import ExportError, MissingDependencyError
from gate2static.export.engine_sidecar import EngineSidecar, EngineTensor, sidecar_path
from gate2static.files import is_file, read_bytes, sha256_of, write_atomically
from gate2static.messages import brief
from gate2static.runtimes.onnx_file import digest_of, load_onnx, precision_of, read_onnx
from gate2static.runtimes.optional import require_gpu
from gate2static.runtimes.tensorrt import TrtLibrary, trt_library

_LARGEST_CACHE_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """What was built.

    Attributes:
        sidecar: as written beside the engine.
        build_s: seconds the library took.
    """

    path: Path
    sidecar_path: Path
    sidecar: EngineSidecar
    build_s: float


def build_engine(
    onnx_path: str | Path,
    engine_path: str | Path,
    *,
    backend: str = "tensorrt-rtx",
    compute_capabilities: Sequence[str] | None = None,
    batch: tuple[int, int, int] = (1, 1, 8),
    workspace_bytes: int | None = None,
    timing_cache: str | Path | None = None,
) -> EngineReport:
    """Build an engine and write it raw (trtexec reads it), with its sidecar `<engine>.json`.

    TensorRT-RTX builds for any of its GPUs on a machine without one; TensorRT builds on and for the GPU at hand.
    Precision is the graph's: export an fp16 or int8 ONNX file for an fp16 or int8 engine.

    Args:
        onnx_path: from `export_onnx` or `quantize_onnx`; other ONNX files work when only their first dimension varies.
        engine_path: where the engine goes; a file already there is replaced at the very end.
        backend: "tensorrt-rtx" or "tensorrt".
        compute_capabilities: GPUs to build for, such as ("8.6", "8.9"), TensorRT-RTX only; None: this machine's GPU.
        batch: smallest, most usual and largest batch size; tuned for the middle one.
        workspace_bytes: scratch memory that layers may use on the GPU; None: the library's default, all of it.
        timing_cache: a file in which TensorRT keeps how long layers took on this GPU, so that the next build only times
            other layers; it is made if missing. TensorRT-RTX times nothing.

    Raises:
        MissingDependencyError: the library, or for TensorRT the GPU, is not there.
        ExportError: wrong arguments, an ONNX file that the library's parser refuses, or a build that failed.
    """
    onnx_path = require_path(onnx_path, name="the ONNX file's path", error=ExportError)
    engine_path = require_path(engine_path, name="the engine's path", error=ExportError)
    library = trt_library(backend)
    if timing_cache is not None and library.backend != "tensorrt":
        raise ExportError("a timing cache is for the backend tensorrt: TensorRT-RTX times no layers while it builds")
    if library.backend == "tensorrt":
        require_gpu("building a TensorRT engine (TensorRT-RTX, --trt-rtx, builds without one)")
    source = read_onnx(onnx_path)
    proto = load_onnx(source, onnx_path)
    library.messages.clear()
    builder = _created(library, "Builder", library.module.Builder, library.logger)
    network = _parse(library, builder, source, onnx_path)
    config = builder.create_builder_config()
    capabilities = _target(library, config, compute_capabilities)
    cache = None if timing_cache is None else _use_cache(config, Path(timing_cache))
    if workspace_bytes is not None:
        config.set_memory_pool_limit(library.module.MemoryPoolType.WORKSPACE, workspace_bytes)
    _add_profile(builder, config, network, batch)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - start
    if plan is None:
        raise ExportError(
            f"{backend} {library.module.__version__} could not build {onnx_path} for compute capability "
            f"{', '.join(capabilities)}: {library.reason()}\n"
            "Try fp16, newer compute capabilities or a larger workspace."
        )
    data = bytes(plan)
    if timing_cache is not None and cache is not None:
        write_atomically(Path(timing_cache), bytes(cache.serialize()))
    sidecar = EngineSidecar(
        backend=library.backend,
        library_version=library.module.__version__,
        sha256=sha256_of(data),
        size_bytes=len(data),
        onnx_sha256=sha256_of(source),
        digest=digest_of(proto),
        precision=precision_of(proto),
        compute_capabilities=capabilities,
        batch=batch,
        inputs=_tensors(network.get_input(i) for i in range(network.num_inputs)),
        outputs=_tensors(network.get_output(i) for i in range(network.num_outputs)),
    )
    write_atomically(engine_path, data)
    write_atomically(sidecar_path(engine_path), sidecar.model_dump_json(indent=2).encode() + b"\n")
    return EngineReport(path=engine_path, sidecar_path=sidecar_path(engine_path), sidecar=sidecar, build_s=build_s)


def _created(library: TrtLibrary, what: str, factory: Any, *arguments: Any) -> Any:
    try:
        return factory(*arguments)
    except (TypeError, RuntimeError) as failure:  # pybind's way to say that the native constructor returned null
        raise MissingDependencyError(
            f"{library.backend} {library.module.__version__} cannot make its {what} on this machine: "
            f"{library.reason()}; ask `gate2static doctor` what is missing"
        ) from failure


def _parse(library: TrtLibrary, builder: Any, source: bytes, path: Path) -> Any:
    strongly_typed = getattr(library.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = library.module.OnnxParser(network, library.logger)
    if not parser.parse(source, str(path)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        lines = [
            f"  {e.node_name() or 'graph'} ({e.node_operator() or 'model'}): {brief(e.desc(), 400)}" for e in errors
        ]
        raise ExportError(
            f"{library.backend} {library.module.__version__} cannot read {path}:\n"
            + "\n".join(lines or [library.reason()])
            + "\nExport with another opset, or replace the operators named above."
        )
    return network


def _target(library: TrtLibrary, config: Any, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if library.backend == "tensorrt":
        import torch

        here = "{}.{}".format(*torch.cuda.get_device_capability())
        if wanted is not None and tuple(wanted) != (here,):
            raise ExportError(
                f"TensorRT builds for the GPU at hand, compute capability {here}, not for {', '.join(wanted)}; "
                "leave compute_capabilities out, or use the tensorrt-rtx backend"
            )
        return (here,)
    known = library.module.ComputeCapability.__members__
    allowed = [f"{int(name[2:-1])}.{name[-1]}" for name in known if name.startswith("SM")]
    capabilities = _this_gpu(allowed) if wanted is None else tuple(dict.fromkeys(wanted))
    if not capabilities or not set(capabilities) <= set(allowed):
        raise ExportError(
            f"{library.backend} {library.module.__version__} cannot build for compute capability "
            f"{', '.join(capabilities) or 'none'}; allowed: {', '.join(allowed)}"
        )
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        if not config.set_compute_capability(known[f"SM{capability.replace('.', '')}"], index):
            raise ExportError(f"{library.backend} refused compute capability {capability}: {library.reason()}")
    return capabilities


def _this_gpu(allowed: Sequence[str]) -> tuple[str]:
    """Returns the compute capability of the GPU at hand; an engine for another one would not run, and nothing says so.

    Raises:
        ExportError: There is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ExportError(
            "an engine is built for certain GPUs, and this machine has none to build for: name them with "
            "compute_capabilities (--compute-capability on the command line), such as 8.9 for an RTX 4090 or an L4; "
            f"allowed: {', '.join(allowed)}. Boards such as Jetson build their own with trtexec, see docs/jetson.md"
        )
    return ("{}.{}".format(*torch.cuda.get_device_capability()),)


def _use_cache(config: Any, path: Path) -> Any:
    """Gives a build the timings of earlier ones, and returns the cache that it adds to."""
    earlier = b""
    if is_file(path):
        earlier = read_bytes(path, what="timing cache", largest=_LARGEST_CACHE_BYTES)
    cache = config.create_timing_cache(earlier)
    # Timings of another GPU or version are refused, and the build starts with none.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _add_profile(builder: Any, config: Any, network: Any, batch: tuple[int, int, int]) -> None:
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise ExportError(f"batch sizes {batch} must be three numbers ≥ 1 in rising order: smallest, usual, largest")
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        sizes = tuple(tensor.shape)
        if -1 in sizes[1:]:
            raise ExportError(
                f"input {tensor.name} has shape {sizes}; only the first (batch) dimension may vary: prune without "
                "dynamic"
            )
        if sizes[0] == -1:
            profile.set_shape(tensor.name, *((size, *sizes[1:]) for size in batch))
        elif set(batch) != {sizes[0]}:
            raise ExportError(
                f"input {tensor.name} has the fixed batch size {sizes[0]}, not {batch}; "
                f"pass batch={(sizes[0],) * 3} or export with a dynamic batch"
            )
    config.add_optimization_profile(profile)


def _tensors(tensors: Any) -> tuple[EngineTensor, ...]:
    return tuple(EngineTensor(name=t.name, shape=tuple(t.shape), dtype=t.dtype.name.lower()) for t in tensors)
