"""ONNX files with 8-bit weights and activations, and the calibration that they need."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gate2static.errors import ExportError
from gate2static.export import export_onnx, quantize_onnx
from gate2static.export.int8_from_onnx import calibration_batches
from gate2static.static import StaticModel


@pytest.fixture
def batches() -> list[Any]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((4, 3, 16, 16), dtype=np.float32) for _ in range(3)]


def test_int8_stays_close_and_says_how_close(onnx_file: Path, tmp_path: Path, batches: list[Any]) -> None:
    report = quantize_onnx(onnx_file, tmp_path / "int8.onnx", batches)
    assert report.samples == 12
    assert set(report.rms_errors) == {"a", "b"}
    assert all(1e-4 < error < 0.05 for error in report.rms_errors.values())


def test_the_form_is_the_one_tensorrt_reads(onnx_file: Path, tmp_path: Path, batches: list[Any]) -> None:
    quantize_onnx(onnx_file, tmp_path / "int8.onnx", batches)
    model = onnx.load(tmp_path / "int8.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert nodes
    assert {constants[node.input[2]].dtype for node in nodes} == {np.dtype(np.int8)}
    assert all(np.all(constants[node.input[2]] == 0) for node in nodes)


def test_outputs_are_not_rounded_and_their_layers_stay_in_floating_point(
    onnx_file: Path, tmp_path: Path, batches: list[Any]
) -> None:
    quantize_onnx(onnx_file, tmp_path / "int8.onnx", batches)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    weights = {tensor.name for tensor in graph.initializer}
    writers = {name: node for node in graph.node for name in node.output}
    last = {value.name: writers[value.name] for value in graph.output}
    assert {name: node.op_type for name, node in last.items()} == {"a": "Gemm", "b": "Conv"}
    assert all(node.input[1] in weights for node in last.values())
    others = [node for node in graph.node if node.op_type == "Conv" and node.output[0] not in last]
    assert others
    assert all(writers[node.input[1]].op_type == "DequantizeLinear" for node in others)


def test_a_network_of_nothing_but_last_layers_is_refused(tmp_path: Path) -> None:
    helper = onnx.helper
    value, result = (helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in ("x", "y"))
    weight = helper.make_tensor("w", 1, [4, 4], np.eye(4, dtype=np.float32).ravel())
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="n")
    graph = helper.make_graph([node], "g", [value], [result], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "x.onnx")
    with pytest.raises(ExportError, match="every layer of the network writes an output"):
        quantize_onnx(tmp_path / "x.onnx", tmp_path / "int8.onnx", [np.ones((2, 4), np.float32)])


def test_metadata_survives_and_names_the_precision(
    static: StaticModel, onnx_file: Path, tmp_path: Path, batches: list[Any]
) -> None:
    quantize_onnx(onnx_file, tmp_path / "int8.onnx", batches)
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "int8.onnx").metadata_props}
    assert found["gate2static.precision"] == "int8"
    assert found["gate2static.digest"] == static.manifest.digest


def test_a_weight_of_one_dimension_is_quantised_without_a_word(tmp_path: Path, caplog: Any) -> None:
    """ONNX Runtime warns that it has no axis 1 to quantise per channel along; one scale is what it should get."""
    helper = onnx.helper
    value, result = (helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in ("x", "y"))
    weights = [
        helper.make_tensor("w", 1, [4, 4], np.eye(4, dtype=np.float32).ravel()),
        helper.make_tensor("b", 1, [4], np.ones(4, np.float32)),
        helper.make_tensor("v", 1, [4], np.ones(4, np.float32)),
    ]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value], [result], weights)
    result.type.tensor_type.shape.dim.pop()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "x.onnx")
    root = logging.getLogger()
    before = list(root.handlers), list(root.filters)
    quantize_onnx(tmp_path / "x.onnx", tmp_path / "int8.onnx", [np.ones((2, 4), np.float32)])
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (list(root.handlers), list(root.filters)) == before


def test_the_root_logger_is_left_alone(onnx_file: Path, tmp_path: Path, batches: list[Any], caplog: Any) -> None:
    handlers = list(logging.getLogger().handlers)
    quantize_onnx(onnx_file, tmp_path / "int8.onnx", batches)
    assert logging.getLogger().handlers == handlers
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "no calibration data"),
        ([np.zeros((1, 3, 8, 8), np.float32)], r"batch 0 is \{'image': \('float32', \(1, 3, 8, 8\)\)\}"),
        ([np.zeros((1, 3, 16, 16))], r"batch 0 is \{'image': \('float64'"),
        ([{"x": np.zeros((1, 3, 16, 16), np.float32)}], "the model's inputs are"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(
    onnx_file: Path, tmp_path: Path, calibration: Any, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        quantize_onnx(onnx_file, tmp_path / "int8.onnx", calibration)
    assert not (tmp_path / "int8.onnx").exists()


def test_only_fp32_is_quantised(static: StaticModel, tmp_path: Path, batches: list[Any]) -> None:
    export_onnx(static, tmp_path / "half.onnx", precision="fp16")
    with pytest.raises(ExportError, match=r"half\.onnx is fp16; int8 is made from an fp32 file"):
        quantize_onnx(tmp_path / "half.onnx", tmp_path / "int8.onnx", batches)


def test_a_file_that_is_not_onnx_is_one_clear_line(tmp_path: Path, batches: list[Any]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a protobuf")
    with pytest.raises(ExportError, match="is not a complete ONNX model"):
        quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx", batches)


def test_calibration_is_read_from_a_plain_array_in_batches(tmp_path: Path) -> None:
    array = np.arange(10 * 3, dtype=np.float32).reshape(10, 3)
    np.save(tmp_path / "images.npy", array)
    found = list(calibration_batches(tmp_path / "images.npy", batch_size=4))
    assert [len(batch) for batch in found] == [4, 4, 2]
    assert np.array_equal(np.concatenate(found), array)


def test_pickled_calibration_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bomb.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ExportError, match=r"bomb\.npy is not a readable \.npy array"):
        list(calibration_batches(tmp_path / "bomb.npy"))


def test_calibration_of_another_type_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bytes.npy", np.zeros((4, 3), np.uint8))
    with pytest.raises(ExportError, match="must hold one float32 array"):
        list(calibration_batches(tmp_path / "bytes.npy"))
