"""The runner of ONNX Runtime on the GPU, with inputs and outputs in device memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gate2static.bench.runners.cuda_timing import DEVICE, event_timer, transfer_timer
from gate2static.bench.runners.onnx_inputs import onnx_feed
from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import OnnxSource
from gate2static.errors import BenchError
from gate2static.runtimes.onnxruntime import onnxruntime, open_cuda_session
from gate2static.runtimes.optional import require_gpu


@contextmanager
def open_onnxruntime_cuda(source: OnnxSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Opens a session that runs on a stream of ours; ONNX Runtime does not wait for the stream, the CUDA events do."""
    require_gpu("timing ONNX Runtime on CUDA")
    stream = torch.cuda.Stream()  # not the default stream, whose handle 0 means "no stream" to ONNX Runtime
    options = {"device_id": "0", "user_compute_stream": str(stream.cuda_stream)}
    session = open_cuda_session(source.data, label=source.label, provider_options=options, error=BenchError)
    feed = onnx_feed(session, batch_size)
    inputs = {name: torch.from_numpy(array).to(DEVICE).contiguous() for name, array in feed.items()}
    torch.cuda.synchronize()
    binding = _bound(session, inputs, feed)
    unsynchronised = onnxruntime().RunOptions()
    unsynchronised.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def launch() -> None:
        session.run_with_iobinding(binding, unsynchronised)

    # The first run allocates the outputs, whose shapes are known only then.
    launch()
    stream.synchronize()
    outputs = [torch.empty(tuple(value.shape()), device=DEVICE) for value in binding.get_outputs()]
    yield Runner(run=event_timer(launch, stream), transfer=transfer_timer(list(inputs.values()), outputs, stream))
    stream.synchronize()


def _bound(session: Any, inputs: dict[str, torch.Tensor], feed: dict[str, Any]) -> Any:
    binding = session.io_binding()
    for name, tensor in inputs.items():
        binding.bind_input(name, "cuda", 0, feed[name].dtype, tuple(tensor.shape), tensor.data_ptr())
    for value in session.get_outputs():
        binding.bind_output(value.name, "cuda", 0)
    return binding
