"""The runner of TensorRT and TensorRT-RTX engines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gate2static.bench.runners.cuda_timing import DEVICE, captured, event_timer, transfer_timer
from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import EngineSource
from gate2static.errors import BenchError
from gate2static.export.engine_sidecar import EngineTensor
from gate2static.files import read_bytes
from gate2static.runtimes.optional import require_gpu
from gate2static.runtimes.tensorrt import TrtLibrary, trt_library

_DTYPES = {
    "float": torch.float32,
    "half": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}


@contextmanager
def open_tensorrt(source: EngineSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Opens an engine with its tensors in device memory, launched as one CUDA graph.

    Raises:
        MissingDependencyError: There is no GPU, or the library is not installed.
        BenchError: The engine is for another GPU, library version or batch size.
    """
    _check_fits(source, batch_size)
    library = trt_library(source.sidecar.backend)
    library.messages.clear()  # messages of earlier engines are not reasons for a failure of this one
    runtime = library.module.Runtime(library.logger)
    engine = runtime.deserialize_cuda_engine(read_bytes(source.path, what="engine", error=BenchError))
    if engine is None:
        raise BenchError(
            f"{library.backend} {library.module.__version__} cannot load {source.path.name}, built with "
            f"{source.sidecar.library_version}: {library.reason()}; build the engine again with this version"
        )
    context = _context(library, engine)
    stream = torch.cuda.Stream()
    inputs, outputs = _bind(source, context, batch_size)
    torch.cuda.synchronize()

    def enqueue() -> None:
        if not context.execute_async_v3(stream.cuda_stream):
            raise BenchError(f"{source.path.name} failed while running: {library.reason()}")

    launch = enqueue if _captures_itself(library) else captured(enqueue, stream)
    transfer = transfer_timer(inputs, outputs, stream)
    yield Runner(run=event_timer(launch, stream), transfer=transfer, tensors=(inputs, outputs))
    stream.synchronize()


def _check_fits(source: EngineSource, batch_size: int) -> None:
    require_gpu(f"running the {source.sidecar.backend} engine {source.path.name}")
    smallest, _, largest = source.sidecar.batch
    if not smallest <= batch_size <= largest:
        raise BenchError(
            f"{source.path.name} takes batch sizes {smallest} to {largest}, not {batch_size}; "
            "pass one of those or build an engine with a wider range"
        )
    here = "{}.{}".format(*torch.cuda.get_device_capability())
    if here not in source.sidecar.compute_capabilities:
        raise BenchError(
            f"{source.path.name} was built for compute capability {', '.join(source.sidecar.compute_capabilities)}, "
            f"and this GPU has {here}; build an engine for {here}"
        )


def _captures_itself(library: TrtLibrary) -> bool:
    """Returns whether the library captures CUDA graphs itself.

    TensorRT-RTX compiles kernels for a shape while it runs, so only the library knows when a graph can be captured.
    """
    return hasattr(library.module, "CudaGraphStrategy")


def _context(library: TrtLibrary, engine: Any) -> Any:
    if not _captures_itself(library):
        context = engine.create_execution_context()
    else:
        module = library.module
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # With lazy specialisation, runs would use fall-back kernels until the specialised ones are compiled.
        strategies = module.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        context = engine.create_execution_context(config)
    if context is None:
        raise BenchError(f"{library.backend} cannot make an execution context: {library.reason()}; is the GPU full?")
    return context


def _bind(source: EngineSource, context: Any, batch_size: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def fill(tensor: EngineTensor) -> Tensor:
        sizes = _sizes(tensor, batch_size)
        dtype = _DTYPES[tensor.dtype]
        values = torch.randn(sizes, generator=generator) if dtype.is_floating_point else torch.zeros(sizes)
        return values.to(dtype).to(DEVICE)

    inputs = [fill(tensor) for tensor in source.sidecar.inputs]
    for described, tensor in zip(source.sidecar.inputs, inputs, strict=True):
        if not context.set_input_shape(described.name, tuple(tensor.shape)):
            raise BenchError(f"{source.path.name} refuses {tuple(tensor.shape)} for its input {described.name}")
    outputs = [
        torch.empty(tuple(context.get_tensor_shape(tensor.name)), dtype=_DTYPES[tensor.dtype], device=DEVICE)
        for tensor in source.sidecar.outputs
    ]
    descriptions = (*source.sidecar.inputs, *source.sidecar.outputs)
    for described, tensor in zip(descriptions, (*inputs, *outputs), strict=True):
        if not context.set_tensor_address(described.name, tensor.data_ptr()):
            raise BenchError(f"{source.path.name} has no input or output {described.name}; its sidecar is not its own")
    return inputs, outputs


def _sizes(tensor: EngineTensor, batch_size: int) -> tuple[int, ...]:
    return (batch_size if tensor.shape[0] == -1 else tensor.shape[0], *tensor.shape[1:])
