"""Random inputs for an ONNX Runtime session."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gate2static.errors import BenchError

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


def onnx_feed(session: Any, batch_size: int) -> dict[str, NDArray[Any]]:
    """Returns the inputs of a session by name: standard normal values for floating-point inputs, zeros for integers.

    Raises:
        BenchError: An input varies in another dimension than the first, has a fixed batch size that differs, or has an
            unusual type.
    """
    generator = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {}
    for value in session.get_inputs():
        first, *rest = value.shape
        if value.type not in _DTYPES or not all(isinstance(size, int) for size in rest):
            raise BenchError(
                f"input {value.name} is {value.type} {value.shape}; allowed: {', '.join(_DTYPES)} with only the first "
                "dimension varying. Fix the others when exporting."
            )
        if isinstance(first, int) and first != batch_size:
            raise BenchError(
                f"input {value.name} has the fixed batch size {first}, not {batch_size}; pass that batch size"
            )
        dtype = np.dtype(_DTYPES[value.type])
        array = generator.standard_normal((batch_size, *rest)) if dtype.kind == "f" else np.zeros((batch_size, *rest))
        feed[value.name] = array.astype(dtype)
    return feed
