"""Timing by the GPU's own clock, with CUDA events around each run."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from gate2static.bench.report import Transfers

DEVICE = "cuda"
_QUEUED_RUNS = 10
"""Runs that are queued at once, so that the host's launch time hides behind the GPU's work, as in trtexec."""
_TRANSFERS = 20


def event_timer(launch: Callable[[], object], stream: Any) -> Callable[[], Sequence[float]]:
    """Returns a runner's `run`: it queues a few launches on a stream and returns the GPU time of each in ms."""
    pairs = [(_event(), _event()) for _ in range(_QUEUED_RUNS)]

    def timed() -> list[float]:
        with torch.cuda.stream(stream):
            for start, end in pairs:
                start.record(stream)
                launch()
                end.record(stream)
        # Only now, because a synchronisation after each launch would leave gaps on the GPU.
        stream.synchronize()
        return [float(start.elapsed_time(end)) for start, end in pairs]

    return timed


def captured(launch: Callable[[], object], stream: Any) -> Callable[[], None]:
    """Captures `launch` as one CUDA graph and returns the graph's replay.

    The tensors that `launch` reads and writes must stay where they are.
    """
    with torch.cuda.stream(stream):
        # Two runs let libraries choose kernels and allocate memory, which is not allowed during a capture.
        for _ in range(2):
            launch()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        launch()
    stream.synchronize()

    def replay() -> None:
        graph.replay()

    return replay


def transfer_timer(inputs: Sequence[Tensor], outputs: Sequence[Tensor], stream: Any) -> Callable[[], Transfers]:
    """Returns a function that times the copies of inputs to the device and of outputs to pinned host memory."""

    def copies(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        def copy() -> None:
            for destination, origin in pairs:
                destination.copy_(origin, non_blocking=True)

        timed = event_timer(copy, stream)
        timed()  # warm-up
        return median(ms for _ in range(_TRANSFERS // _QUEUED_RUNS) for ms in timed())

    def transfer() -> Transfers:
        upload = [(x, torch.empty_like(x, device="cpu").pin_memory()) for x in inputs]
        download = [(torch.empty_like(x, device="cpu").pin_memory(), x) for x in outputs]
        return Transfers(upload_ms=copies(upload), download_ms=copies(download))

    return transfer


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)
