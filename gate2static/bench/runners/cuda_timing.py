"""Time on the GPU's own clock: CUDA events around each run, several runs queued so that the host stays ahead."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from gate2static.bench.report import Transfers

DEVICE = "cuda"
_QUEUED_RUNS = 10  # enough that the host's own launch time hides behind the GPU's work, as in trtexec
_TRANSFERS = 20


def event_timer(launch: Callable[[], object], stream: Any) -> Callable[[], Sequence[float]]:
    """A runner's `run`: the GPU time in ms of each of a few launches on `stream`, read after one synchronisation."""
    pairs = [(_event(), _event()) for _ in range(_QUEUED_RUNS)]

    def timed() -> list[float]:
        with torch.cuda.stream(stream):
            for start, end in pairs:
                start.record(stream)
                launch()
                end.record(stream)
        stream.synchronize()
        return [float(start.elapsed_time(end)) for start, end in pairs]

    return timed


def captured(launch: Callable[[], object], stream: Any) -> Callable[[], None]:
    """The replay of `launch` as one CUDA graph; what it reads and writes must stay where it is.

    Two runs before the capture let libraries choose kernels and allocate, which a capture forbids.
    """
    with torch.cuda.stream(stream):
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
    """Time the copies between pinned host memory and tensors of the sizes of `inputs` and `outputs` on the device."""

    def copies(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        def copy() -> None:
            for destination, origin in pairs:
                destination.copy_(origin, non_blocking=True)

        timed = event_timer(copy, stream)
        timed()
        return median(ms for _ in range(_TRANSFERS // _QUEUED_RUNS) for ms in timed())

    def transfer() -> Transfers:
        upload = [(x, torch.empty_like(x, device="cpu").pin_memory()) for x in inputs]
        download = [(torch.empty_like(x, device="cpu").pin_memory(), x) for x in outputs]
        return Transfers(upload_ms=copies(upload), download_ms=copies(download))

    return transfer


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)
