"""ONNX fp32 -> ONNX int8: quantise and dequantise nodes (QDQ), the form that ONNX Runtime and TensorRT both read."""

import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gate2static.arguments import require_path
from gate2static.errors import ExportError
from gate2static.export.onnx_tracing import opset_of
from gate2static.files import open_regular, sha256_of, write_atomically
from gate2static.runtimes.onnx_file import ENDS, load_onnx, precision_of, read_onnx
from gate2static.runtimes.onnxruntime import open_session
from gate2static.runtimes.optional import require

Feed = Mapping[str, NDArray[Any]]

# TensorRT takes symmetric int8 only and keeps biases in floating point; ONNX Runtime is happy with both.
_TENSORRT_FORM = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TINY = 1e-30  # keeps an output that is zero everywhere from dividing by zero


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """What was written, and what quantising cost.

    Attributes:
        rms_errors: task -> RMS of (int8 − fp32) / RMS of fp32, over the calibration samples.
        samples: how many inputs calibrated the ranges.
        opset: The opset of the file.
        batch_size: The only batch size that the file takes; None for any.
    """

    path: Path
    size_bytes: int
    sha256: str
    samples: int
    rms_errors: Mapping[str, float]
    opset: int
    batch_size: int | None


def quantize_onnx(
    path: str | Path, out: str | Path, calibration: Iterable[NDArray[Any] | Mapping[str, NDArray[Any]]]
) -> Int8Report:
    """Quantises weights (per channel) and activations to int8, with ranges measured on real inputs.

    The layers that write outputs stay in floating point, and outputs are not rounded to 8 bits.

    Args:
        path: an fp32 ONNX file from `export_onnx`.
        out: where the int8 file goes; a file already there is replaced at the very end.
        calibration: batches as the network sees them after preprocessing, (N, C, H, W) float32; for several inputs a
            mapping from input name to array. A few hundred samples of the training set are enough.

    Raises:
        ExportError: an unreadable or already reduced model, or calibration data that is empty or does not fit.
    """
    path, out = Path(path), Path(out)
    source = read_onnx(path)
    proto = load_onnx(source, path)
    if precision_of(proto) != "fp32":
        raise ExportError(f"{path} is {precision_of(proto)}; int8 is made from an fp32 file: export that first")
    if any(entry.key == ENDS for entry in proto.metadata_props):
        raise ExportError(
            f"{path} has preprocessing or argmax inside, which would be quantised too: quantise a file without, or "
            "export int8 with both by `export_static` or `gate2static export`"
        )
    session = open_session(source)
    feeds = _feeds(calibration, session.get_inputs())
    data = _quantise(proto, feeds)
    # As written, products are of dequantised numbers. ONNX Runtime's own 8-bit products saturate on processors without
    # VNNI, which is no property of the file.
    errors = _rms_errors(session, open_session(data, as_written=True), feeds)
    write_atomically(out, data)
    samples = sum(len(next(iter(feed.values()))) for feed in feeds)
    first_size = session.get_inputs()[0].shape[0]
    return Int8Report(
        path=out,
        size_bytes=len(data),
        sha256=sha256_of(data),
        samples=samples,
        rms_errors=errors,
        opset=opset_of(load_onnx(data, out)),
        batch_size=first_size if isinstance(first_size, int) else None,
    )


def calibration_batches(path: str | Path, *, batch_size: int = 8) -> Iterator[NDArray[np.float32]]:
    """Batches (N, C, H, W) of an `.npy` file of preprocessed float32 inputs, read piece by piece.

    Raises:
        ExportError: not a float32 `.npy` array with a batch dimension (pickled objects are refused).
    """
    array = open_calibration(path)
    for start in range(0, len(array), batch_size):
        yield np.ascontiguousarray(array[start : start + batch_size])


def open_calibration(path: str | Path) -> NDArray[np.float32]:
    """Maps the array (N, C, H, W) of a file of preprocessed inputs.

    Raises:
        ExportError: not a float32 `.npy` array with a batch dimension (pickled objects are refused).
    """
    path = require_path(path, name="the calibration file", error=ExportError)
    try:
        open_regular(path).close()  # NumPy waits for pipes, and reads devices that have no end
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as failure:
        raise ExportError(f"{path} is not a readable .npy array: {failure}; save it with numpy.save") from failure
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim < 2:
        raise ExportError(f"{path} must hold one float32 array (N, C, H, W); save preprocessed inputs with numpy.save")
    return array


def _feeds(calibration: Iterable[NDArray[Any] | Mapping[str, NDArray[Any]]], inputs: Any) -> list[Feed]:
    feeds: list[Feed] = []
    for batch in calibration:
        feed = batch if isinstance(batch, Mapping) else {inputs[0].name: batch}
        for value in inputs:
            array = feed.get(value.name)
            if array is None or len(feed) != len(inputs) or array.dtype != np.float32 or not _fits(array, value):
                described = {name: (x.dtype.name, x.shape) for name, x in feed.items()}
                raise ExportError(
                    f"calibration batch {len(feeds)} is {described}; the model's inputs are "
                    f"{ {v.name: ('float32', tuple(v.shape)) for v in inputs} }"
                )
        feeds.append(feed)
    if not feeds:
        raise ExportError("no calibration data: int8 ranges are measured on real inputs; pass a few hundred samples")
    return feeds


def _fits(array: NDArray[Any], value: Any) -> bool:
    """Returns whether an array has the sizes of an input, but for those that are free, which have names."""
    sizes = value.shape[1:]
    return array.ndim == len(value.shape) and all(
        isinstance(size, str) or size == found for size, found in zip(sizes, array.shape[1:], strict=True)
    )


def _quantise(proto: Any, feeds: list[Feed]) -> bytes:
    library = require("onnxruntime.quantization")
    from onnxruntime.quantization import CalibrationDataReader

    set_properties = require("onnx").helper.set_model_props
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    batches = iter(feeds)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped library
        def get_next(self) -> Feed | None:
            return next(batches, None)

    # The exporter already simplified the graph and inferred its shapes, which is what this mark says; without it the
    # quantiser asks for its own pass over the root logger.
    set_properties(proto, {**properties, "onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder, _without_known_warnings():
        file = Path(folder) / "int8.onnx"
        library.quantize_static(
            proto,
            str(file),
            Reader(),
            quant_format=library.QuantFormat.QDQ,
            activation_type=library.QuantType.QInt8,
            weight_type=library.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=_last_nodes(proto.graph),
            extra_options=_TENSORRT_FORM,
        )
        quantised = load_onnx(file.read_bytes(), file)
    if precision_of(quantised) != "int8":
        raise ExportError("every layer of the network writes an output, and these stay in floating point: export fp16")
    set_properties(quantised, {**properties, "gate2static.precision": "int8"})
    data: bytes = quantised.SerializeToString(deterministic=True)
    return data


def _last_nodes(graph: Any) -> list[str]:
    """Returns the names of the layers that write outputs, and of what stands between these and the outputs.

    They stay in floating point: an output in 8 bits has a step of 1/127 of its largest value, and a mask's logits are
    cut at 0. On the digits that alone costs 8 % of the mask's IoU, and the layers are a small part of any network.
    """
    writers = {name: node for node in graph.node for name in node.output}
    pending = [value.name for value in graph.output]
    found: set[str] = set()
    while pending:
        node = writers.get(pending.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            if node.op_type not in _LAYERS:
                pending += node.input
    return sorted(found - {""})


@contextmanager
def _without_known_warnings() -> Iterator[None]:
    """Drops what the quantiser says to the root logger of weights of one dimension: they get one scale, as they should.

    Logging to a root logger without handlers would also give it one, for the rest of the process.
    """
    root = logging.getLogger()
    handler = logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_is_of_interest)
    try:
        yield
    finally:
        root.removeFilter(_is_of_interest)
        root.removeHandler(handler)


def _is_of_interest(record: logging.LogRecord) -> bool:
    return "is out-of-range for weight" not in record.getMessage()


def _rms_errors(reference: Any, quantised: Any, feeds: list[Feed]) -> dict[str, float]:
    names = [value.name for value in reference.get_outputs()]
    noise, signal = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for feed in feeds:
        for name, right, found in zip(names, reference.run(None, feed), quantised.run(None, feed), strict=True):
            noise[name] += float(np.square(found.astype(np.float64) - right).sum())
            signal[name] += float(np.square(right.astype(np.float64)).sum())
    return {name: math.sqrt(noise[name] / max(signal[name], _TINY)) for name in names}
