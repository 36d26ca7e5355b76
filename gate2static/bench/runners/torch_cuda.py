"""The runners of torch on the GPU: eager, and the same kernels replayed as one CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch.utils import _pytree as pytree

from gate2static.bench.runners.cuda_timing import DEVICE, captured, event_timer, transfer_timer
from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import TorchSource
from gate2static.errors import BenchError
from gate2static.runtimes.optional import require_gpu


@contextmanager
def open_torch_cuda(source: TorchSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Opens a network in eager mode; as in use, the time includes gaps where the GPU waits for the host."""
    with _opened(source, batch_size=batch_size, graph=False) as runner:
        yield runner


@contextmanager
def open_torch_cuda_graph(source: TorchSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Opens a network as one CUDA graph, whose kernels run back to back.

    Raises:
        BenchError: An operator cannot be captured, such as one that copies to the host.
    """
    with _opened(source, batch_size=batch_size, graph=True) as runner:
        yield runner


@contextmanager
def _opened(source: TorchSource, *, batch_size: int, graph: bool) -> Iterator[Runner]:
    require_gpu("timing torch on CUDA")
    # A copy, because the caller's network stays on its device.
    network = deepcopy(source.network).eval().to(DEVICE)
    inputs = tuple(x.to(DEVICE) for x in source.inputs(batch_size))
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    # no_grad and not inference_mode, because the graph is replayed outside the mode and keeps the tensors.
    with torch.no_grad(), _fastest_convolutions():
        with torch.cuda.stream(stream):
            outputs = [x for x in pytree.tree_leaves(network(*inputs)) if isinstance(x, torch.Tensor)]
        stream.synchronize()
        try:
            launch = captured(lambda: network(*inputs), stream) if graph else (lambda: network(*inputs))
        except RuntimeError as failure:
            raise BenchError(
                f"the network cannot be captured as a CUDA graph: {str(failure).splitlines()[0]}; "
                "time it with the torch-cuda backend"
            ) from failure
        yield Runner(run=event_timer(launch, stream), transfer=transfer_timer(inputs, outputs, stream))
        stream.synchronize()


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Makes cuDNN try its algorithms for each shape first, as ONNX Runtime and TensorRT do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
