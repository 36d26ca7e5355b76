"""ONNX files from strangers: read whole and alone, or refused at once."""

import os
from pathlib import Path

import onnx
import pytest

from gate2static.errors import BenchError, ExportError
from gate2static.runtimes.onnx_file import load_onnx, read_onnx


@pytest.mark.parametrize("where", ["/dev/urandom", "/proc/self/mem", "/tmp", "a\0b", "nowhere.onnx"])
def test_what_is_no_file_is_named(where: str) -> None:
    """`/dev/zero` used to be read until the memory was full."""
    with pytest.raises(BenchError, match="cannot read the ONNX file"):
        read_onnx(Path(where), error=BenchError)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="it is not a regular file"):
        read_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("size_bytes", [0, 2**30, 2**40])
def test_a_file_of_zeros_is_not_read(size_bytes: int, tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(size_bytes)
    with pytest.raises(ExportError, match="it is empty or begins with a zero"):
        read_onnx(tmp_path / "model.onnx")


def test_weights_in_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2], data_location=1)
    weight.external_data.add(key="location", value="../../secret")
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], [weight]))
    with pytest.raises(ExportError, match="it keeps its weights in other files, which are not read; export it again"):
        load_onnx(model.SerializeToString(), tmp_path / "model.onnx")
