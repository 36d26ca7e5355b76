"""The runner of OpenVINO on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gate2static.bench.runners.runner import Runner
from gate2static.bench.sources import OnnxSource
from gate2static.bench.timing import host_timer
from gate2static.errors import BenchError
from gate2static.runtimes.optional import require


@contextmanager
def open_openvino_cpu(source: OnnxSource, *, batch_size: int, threads: int) -> Iterator[Runner]:
    """Opens an inference request that is tuned for latency, in float32, on `threads` threads.

    Without the float32 hint OpenVINO would compute in bfloat16 on some CPUs, which no other backend does by default.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        BenchError: OpenVINO cannot load the model, or its inputs have dimensions that vary or differ.
    """
    openvino = require("openvino")
    core = openvino.Core()
    try:
        model = core.read_model(source.data)
        model.reshape({value.any_name: _shape(value, batch_size) for value in model.inputs})
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", options).create_infer_request()
    except RuntimeError as failure:
        reason = str(failure).strip().splitlines()[-1]
        raise BenchError(
            f"{source.label} cannot be loaded by OpenVINO {openvino.__version__}: {reason}; export it again"
        ) from failure
    feed = {value.any_name: _filled(value) for value in model.inputs}
    yield Runner(run=host_timer(lambda: request.infer(feed, share_inputs=True, share_outputs=True)))


def _shape(value: Any, batch_size: int) -> list[int]:
    first, *rest = value.get_partial_shape()
    if not first.is_dynamic and first.get_length() != batch_size:
        raise BenchError(
            f"input {value.any_name} has the fixed batch size {first.get_length()}, not {batch_size}; "
            "pass that batch size"
        )
    if any(size.is_dynamic for size in rest):
        raise BenchError(
            f"input {value.any_name} is {value.get_partial_shape()}; allowed: only the first dimension varying. "
            "Fix the others when exporting."
        )
    return [batch_size, *(size.get_length() for size in rest)]


def _filled(value: Any) -> NDArray[Any]:
    """Returns standard normal values for a floating-point input, and zeros for integers."""
    dtype = np.dtype(value.get_element_type().to_dtype())
    shape = tuple(value.get_shape())
    return (np.random.default_rng(0).standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)).astype(dtype)
