"""`model.engine.json`: what a raw engine file cannot say about itself without breaking trtexec."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from gate2static.errors import ExportError
from gate2static.files import read_bytes, sha256_of
from gate2static.runtimes.onnx_file import read_onnx
from gate2static.runtimes.tensorrt import TrtBackend
from gate2static.strict_json import read_model


class EngineTensor(BaseModel):
    """One input or output.

    Attributes:
        shape: with the batch dimension first; −1 where the engine takes a range.
        dtype: TensorRT's name in small letters, such as "float" or "half".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int, ...]
    dtype: str


class EngineSidecar(BaseModel):
    """The JSON beside an engine.

    Attributes:
        sha256: of the engine file.
        onnx_sha256: of the ONNX file it was built from.
        digest: of the static model that the ONNX file was exported from; None if it came from elsewhere.
        library_version: the version that must load it.
        compute_capabilities: GPUs it runs on, such as ("8.9",).
        batch: smallest, most usual and largest batch size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    backend: TrtBackend
    library_version: str
    sha256: str
    size_bytes: int
    onnx_sha256: str
    digest: str | None
    precision: Literal["fp32", "fp16", "int8"]
    compute_capabilities: tuple[str, ...]
    batch: tuple[int, int, int]
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]


def sidecar_path(engine: Path) -> Path:
    """Where the sidecar of an engine lies."""
    return engine.with_name(f"{engine.name}.json")


def read_sidecar(engine: Path) -> EngineSidecar:
    """The sidecar of an engine, once the engine's bytes were found to be the ones it describes.

    Raises:
        ExportError: engine or sidecar missing, unreadable, or not of one another.
    """
    path = sidecar_path(engine)
    sidecar = read_model(
        path, EngineSidecar, what="engine's sidecar", advice="build the engine again", error=ExportError
    )
    digest = sha256_of(read_bytes(engine, what="engine"))
    if digest != sidecar.sha256:
        raise ExportError(
            f"{engine} is not the engine that {path.name} describes: sha256 {digest[:12]}…, expected "
            f"{sidecar.sha256[:12]}…; a build was interrupted or a file replaced. Build the engine again."
        )
    return sidecar


def is_built_from(engine: Path, onnx: Path) -> bool:
    """Returns whether an engine is whole, has its own sidecar, and was built from an ONNX file as it is now.

    A process that was killed while it built leaves an engine without a sidecar, or beside that of an older one.
    """
    try:
        sidecar = read_sidecar(engine)
        return sidecar.onnx_sha256 == sha256_of(read_onnx(onnx))
    except ExportError:
        return False
