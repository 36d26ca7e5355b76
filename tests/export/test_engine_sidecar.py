"""What a killed build leaves: an engine without its sidecar, or beside that of an older one."""

from pathlib import Path

import pytest

from gate2static.errors import ExportError
from gate2static.export.engine_sidecar import EngineSidecar, is_built_from, read_sidecar, sidecar_path
from gate2static.files import sha256_of

ENGINE, ONNX = b"an engine", b"\x08an ONNX file"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine with its sidecar, beside the ONNX file that it was built from."""
    path = tmp_path / "model.engine"
    path.write_bytes(ENGINE)
    (tmp_path / "model.onnx").write_bytes(ONNX)
    sidecar = EngineSidecar(
        backend="tensorrt-rtx", library_version="1", sha256=sha256_of(ENGINE), size_bytes=len(ENGINE),
        onnx_sha256=sha256_of(ONNX), digest=None, precision="fp32", compute_capabilities=("8.9",), batch=(1, 1, 8),
        inputs=(), outputs=(),
    )  # fmt: skip
    sidecar_path(path).write_text(sidecar.model_dump_json())
    return path


def test_an_engine_with_its_own_sidecar_is_not_built_again(engine: Path) -> None:
    assert is_built_from(engine, engine.with_name("model.onnx"))


@pytest.mark.parametrize("kind", ["no sidecar", "half a sidecar", "another engine", "another ONNX file", "no engine"])
def test_an_engine_without_its_own_sidecar_is_built_again(engine: Path, kind: str) -> None:
    """Such an engine used to be taken for up to date by every later run, and refused by every measurement."""
    if kind == "no sidecar":
        sidecar_path(engine).unlink()
    elif kind == "half a sidecar":
        sidecar_path(engine).write_text(sidecar_path(engine).read_text()[:100])
    elif kind == "another engine":
        engine.write_bytes(b"a newer engine")
    elif kind == "another ONNX file":
        engine.with_name("model.onnx").write_bytes(b"\x08a newer ONNX file")
    else:
        engine.unlink()
    assert not is_built_from(engine, engine.with_name("model.onnx"))


def test_a_sidecar_of_another_engine_is_named(engine: Path) -> None:
    engine.write_bytes(b"a newer engine")
    with pytest.raises(ExportError, match=r"is not the engine that model\.engine\.json describes: "):
        read_sidecar(engine)
