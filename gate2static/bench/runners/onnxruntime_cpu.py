"""The runner of ONNX Runtime on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

from gate2static.bench.runners.onnx_inputs import onnx_feed
from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import OnnxSource
from gate2static.bench.timing import host_timer
from gate2static.errors import BenchError
from gate2static.runtimes.onnxruntime import open_session


@contextmanager
def open_onnxruntime_cpu(source: OnnxSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Opens a session whose `run` is timed on `threads` intra-op threads.

    Closing the runner frees the session with its thread pool, which spins while it waits for work. Idle pools of other
    sessions in the process would double the measured latency.
    """
    session = open_session(source.data, label=source.label, threads=threads, error=BenchError)
    feed = onnx_feed(session, batch_size)
    names = [value.name for value in session.get_outputs()]
    yield Runner(run=host_timer(lambda: session.run(names, feed)))
