"""Reading of ONNX files: the model, its precision and the static network that it was exported from."""

from pathlib import Path
from typing import Any, Literal

from gate2static.errors import ExportError, Gate2StaticError
from gate2static.files import open_regular, read_bytes
from gate2static.messages import brief
from gate2static.runtimes.optional import require

ENDS = "gate2static.ends"
"""The metadata property of a file that has more than its network inside, with the JSON of `static.meaning.Ends`."""
_EXTERNAL = 1  # TensorProto.EXTERNAL


def read_onnx(path: Path, *, error: type[Gate2StaticError] = ExportError) -> bytes:
    """Returns the content of an ONNX file.

    Args:
        path: The file, which need not be trusted.
        error: The exception class for a file that cannot be read.

    Raises:
        Gate2StaticError: The file cannot be read, or cannot be ONNX (of type `error`).
    """
    what = "ONNX file"
    # No message of protobuf begins so, but files of zeros do, which take no room on a disk and gigabytes in memory.
    try:
        with open_regular(path) as file:
            is_empty = file.read(1) in (b"", b"\0")
    except (OSError, ValueError):
        is_empty = False  # `read_bytes` says why
    if is_empty:
        raise error(f"cannot read the {what} {path}: it is empty or begins with a zero; export it again")
    return read_bytes(path, what=what, error=error)


def load_onnx(data: bytes, path: Path) -> Any:
    """Returns the `onnx.ModelProto` in a file's content.

    Args:
        data: The file's content.
        path: The file's path, for the error message.

    Raises:
        ExportError: The content is not a complete ONNX model, or keeps weights in other files.
    """
    onnx = require("onnx")
    try:
        proto = onnx.load_model_from_string(data)
        if any(tensor.data_location == _EXTERNAL for tensor in proto.graph.initializer):
            raise ValueError("it keeps its weights in other files, which are not read")
        onnx.checker.check_model(proto)
    except Exception as failure:  # protobuf's exceptions depend on which implementation is in use
        raise ExportError(
            f"{path} ({len(data)} bytes) is not a complete ONNX model: {brief(failure)}; export it again"
        ) from failure
    return proto


def precision_of(proto: Any) -> Literal["fp32", "fp16", "int8"]:
    """Returns the lowest precision of a model, read from its nodes and weights."""
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        return "int8"
    half = require("onnx").TensorProto.FLOAT16
    return "fp16" if any(tensor.data_type == half for tensor in proto.graph.initializer) else "fp32"


def digest_of(proto: Any) -> str | None:
    """Returns the digest of the static model that a file was exported from; None for other ONNX files."""
    return next((entry.value for entry in proto.metadata_props if entry.key == "gate2static.digest"), None)
