"""Random inputs for an ONNX Runtime session."""

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gate2static.errors import BenchError

_LARGEST_INPUT = 2**28
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

    Sizes that are free are those of the example inputs, which exported files name.

    Raises:
        BenchError: An input varies in another dimension than the first, has a fixed batch size that differs, or has an
            unusual type.
    """
    generator = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {}
    for value in session.get_inputs():
        first, *rest = value.shape or [None, None]
        examples = _example_shape(session, value.name) or rest
        rest = [size if isinstance(size, int) else known for size, known in zip(rest, examples, strict=False)]
        if value.type not in _DTYPES or not all(isinstance(size, int) for size in rest):
            raise BenchError(
                f"input {value.name} is {value.type} {value.shape}; allowed: {', '.join(_DTYPES)} with only the first "
                "dimension varying. Fix the others when exporting."
            )
        if isinstance(first, int) and first != batch_size:
            raise BenchError(
                f"input {value.name} has the fixed batch size {first}, not {batch_size}; pass that batch size"
            )
        elements = batch_size * math.prod(rest)
        if not 0 < elements <= _LARGEST_INPUT:
            raise BenchError(
                f"input {value.name} has {elements:,} elements at batch size {batch_size}; allowed are up to "
                f"{_LARGEST_INPUT:,}"
            )
        dtype = np.dtype(_DTYPES[value.type])
        array = generator.standard_normal((batch_size, *rest)) if dtype.kind == "f" else np.zeros((batch_size, *rest))
        feed[value.name] = array.astype(dtype)
    return feed


def _example_shape(session: Any, name: str) -> list[int] | None:
    """Returns the shape of the example input, without the batch, that `export_onnx` wrote into the file."""
    text = session.get_modelmeta().custom_metadata_map.get("gate2static.shapes")
    try:
        shape = json.loads(text)[name] if text else None
    except (ValueError, KeyError, TypeError):
        return None
    is_shape = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    return shape if is_shape else None
