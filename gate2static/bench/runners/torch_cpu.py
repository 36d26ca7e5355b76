"""The runner of eager torch on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import TorchSource
from gate2static.bench.timing import host_timer


@contextmanager
def open_torch_cpu(source: TorchSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Opens a network in inference mode on `threads` intra-op threads."""
    inputs = source.inputs(batch_size)
    network = source.network.eval()
    # The number of threads is a global setting of torch, so it is put back at the end.
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield Runner(run=host_timer(lambda: network(*inputs)))
    finally:
        torch.set_num_threads(before)
