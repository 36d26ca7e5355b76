"""The command line of NVIDIA's `trtexec` that builds an engine from an ONNX file, on the board that will run it."""

from collections.abc import Sequence

from gate2static.static import TensorSpec

PRECISIONS: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("--fp16",), "int8": ("--int8", "--fp16")}
"""Precision of a file -> the options with which TensorRT 8 to 10 may use it; TensorRT 11 knows it without."""
TIMING_CACHE = "timing.cache"


def trtexec_line(inputs: Sequence[TensorSpec], file: str, *, batch: tuple[int, int, int] | None, precision: str) -> str:
    """Returns a command line of `trtexec`, as it is typed in the folder of the ONNX file.

    Args:
        inputs: The network's inputs.
        file: The name of the ONNX file.
        batch: The smallest, the usual and the largest batch size of the engine; None where the file takes one only.
        precision: The ONNX file's precision: fp32, fp16 or int8.
    """
    parts = ["trtexec", f"--onnx={file}", f"--saveEngine={file.removesuffix('.onnx')}.engine"]
    if batch is not None:
        for option, size in zip(("--minShapes", "--optShapes", "--maxShapes"), batch, strict=True):
            shapes = ",".join(f"{spec.name}:{'x'.join(map(str, (size, *spec.shape)))}" for spec in inputs)
            parts.append(f"{option}={shapes}")
    # With the cache, the next build times only the layers that changed.
    return " ".join([*parts, *PRECISIONS[precision], f"--timingCacheFile={TIMING_CACHE}"])
