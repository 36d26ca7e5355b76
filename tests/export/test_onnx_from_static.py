"""Static networks as ONNX files: contents, precision, tolerances, and exports that are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import ExportError, VerificationError
from gate2static.export import equality, export_onnx, onnx_errors, onnx_from_static
from gate2static.export.equality import check_equal, onnx_tolerances
from gate2static.gates import gate
from gate2static.prune import prune
from gate2static.static import StaticModel


def parameter(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The data of the one parameter of a shape: heads are told by theirs."""
    [found] = [value.data for value in network.parameters() if tuple(value.shape) == shape]
    return found


def test_inputs_outputs_and_batch_are_named(onnx_bytes: bytes) -> None:
    graph = onnx.load_model_from_string(onnx_bytes).graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["a", "b"]
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_metadata_says_where_the_file_came_from(onnx_bytes: bytes, static: StaticModel) -> None:
    model = onnx.load_model_from_string(onnx_bytes)
    found = {entry.key.removeprefix("gate2static."): entry.value for entry in model.metadata_props}
    assert json.loads(found["tasks"]) == ["a", "b"]
    assert json.loads(found["macs"]) == static.manifest.macs.model_dump()
    assert found["digest"] == static.manifest.digest
    assert found["precision"] == "fp32"
    assert found["exporter"] == f"torch {torch.__version__}"
    assert model.producer_name == "gate2static"


def test_no_path_of_this_machine_is_in_the_file(onnx_bytes: bytes) -> None:
    assert str(Path(__file__).parent).encode() not in onnx_bytes
    assert str(Path(torch.__file__).parent).encode() not in onnx_bytes


def test_norms_are_folded_only_when_asked(static: StaticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fold = StaticModel.deployed
    monkeypatch.setattr(StaticModel, "deployed", lambda self: calls.append("folded") or fold(self))
    export_onnx(static, tmp_path / "apart.onnx", fold_norms=False)
    assert calls == []
    export_onnx(static, tmp_path / "folded.onnx")
    assert calls == ["folded"]


def test_the_network_is_left_as_it_was(static: StaticModel, tmp_path: Path) -> None:
    static.double()
    before = {name: value.clone() for name, value in static.state_dict().items()}
    export_onnx(static, tmp_path / "model.onnx", precision="fp16")
    assert all(torch.equal(value, before[name]) for name, value in static.state_dict().items())


def test_exporting_twice_gives_the_same_bytes(static: StaticModel, onnx_bytes: bytes, tmp_path: Path) -> None:
    export_onnx(static, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == onnx_bytes


def test_fp16_computes_in_half_between_float_ends(static: StaticModel, tmp_path: Path) -> None:
    report = export_onnx(static, tmp_path / "half.onnx", precision="fp16")
    weights = [tensor for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer if len(tensor.dims) == 4]
    assert weights
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    session = onnxruntime.InferenceSession(tmp_path / "half.onnx", providers=["CPUExecutionProvider"])
    assert {value.type for value in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}
    assert 1e-5 < max(report.errors.values()) < report.tolerances["a"]


def test_fp16_that_overflows_is_refused(
    static: StaticModel, tmp_path: Path, folder_contents: Callable[[], list[str]]
) -> None:
    parameter(static, (1, 8, 1, 1)).mul_(1e6)
    with pytest.raises(VerificationError, match=r"b inf \(allowed 0\.02\)"):
        export_onnx(static, tmp_path / "half.onnx", precision="fp16")
    assert folder_contents() == []


@pytest.mark.parametrize(("task", "head"), [("a", (5, 8)), ("b", (1, 8, 1, 1))])
def test_a_changed_weight_is_reported_for_the_task_that_reads_it(
    static: StaticModel, onnx_file: Path, task: str, head: tuple[int, ...]
) -> None:
    model = onnx.load(onnx_file)
    [tensor] = [entry for entry in model.graph.initializer if tuple(entry.dims) == head]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] += 0.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, onnx_file)
    errors = onnx_errors(static, onnx_file)
    tolerances = onnx_tolerances(static)
    assert {name for name, error in errors.items() if error > tolerances[name]} == {task}


def test_an_export_that_computes_something_else_keeps_the_old_file(
    static: StaticModel, onnx_file: Path, onnx_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = onnx_from_static.trace_onnx

    def wrong(network: Any, **options: Any) -> Any:
        parameter(network, (1, 8, 1, 1)).mul_(1.01)
        return honest(network, **options)

    monkeypatch.setattr(onnx_from_static, "trace_onnx", wrong)
    with pytest.raises(VerificationError, match=r"relative error b [\d.]+ \(allowed 1e-05\)"):
        export_onnx(static, onnx_file)
    assert onnx_file.read_bytes() == onnx_bytes


class Magnifier(nn.Module):
    """Makes rounding errors larger, as attention with large logits does."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.factor * x)


def magnifying(factor: float) -> StaticModel:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3))
    heads = {"a": Magnifier(factor), "b": nn.Conv2d(8, 5, 1)}
    return prune(gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 16, 16),), heads=heads).eval())


def test_a_task_that_magnifies_rounding_may_differ_by_what_torch_itself_loses(tmp_path: Path) -> None:
    report = export_onnx(magnifying(3e2), tmp_path / "model.onnx")
    assert 5e-5 < report.errors["a"] < report.tolerances["a"] < 0.01
    assert report.tolerances["b"] == 1e-5


def test_a_bug_in_one_task_is_called_so_beside_another_that_is_mostly_rounding() -> None:
    with pytest.raises(VerificationError, match=r"a 0\.5 \(allowed 1e-05\), b 1 .* this is a bug: please report it"):
        check_equal({"a": 0.5, "b": 1.0}, {"a": 1e-5, "b": 1e-2})


def test_a_task_that_is_mostly_rounding_is_refused(tmp_path: Path) -> None:
    found = r"a [\d.]+ \(allowed 0\.01\)\. The float32 result of a is not reproducible: .* more than 0\.0006 away"
    with pytest.raises(VerificationError, match=found):
        export_onnx(magnifying(1e7), tmp_path / "model.onnx")


def test_a_task_that_is_mostly_rounding_excuses_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnx_from_static.trace_onnx

    def wrong(network: Any, **options: Any) -> Any:
        parameter(network, (5, 8, 1, 1)).mul_(1.05)
        return honest(network, **options)

    monkeypatch.setattr(onnx_from_static, "trace_onnx", wrong)
    with pytest.raises(VerificationError, match=r", b 0\.0\d+ \(allowed 1e-05\)"):
        export_onnx(magnifying(1e7), tmp_path / "model.onnx")


def test_a_failure_in_float64_is_not_taken_for_a_tolerance(
    static: StaticModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("not implemented for Double")

    monkeypatch.setattr(equality, "run_static", failing)
    with pytest.raises(RuntimeError, match="not implemented for Double"):
        onnx_tolerances(static)


def test_a_truncated_file_gives_one_clear_line(static: StaticModel, onnx_file: Path, onnx_bytes: bytes) -> None:
    onnx_file.write_bytes(onnx_bytes[:2000])
    with pytest.raises(ExportError, match=r"model\.onnx \(2000 bytes\) cannot be loaded by ONNX Runtime") as caught:
        onnx_errors(static, onnx_file)
    assert "\n" not in str(caught.value)


def test_a_model_of_other_tasks_is_refused(static: StaticModel, onnx_file: Path) -> None:
    outputs = [spec.model_copy(update={"name": name}) for spec, name in zip(static.manifest.outputs, "ac", strict=True)]
    static.manifest = static.manifest.model_copy(update={"tasks": ("a", "c"), "outputs": tuple(outputs)})
    with pytest.raises(ExportError, match=r"\['a', 'b'\], but the static network maps \['image'\] to \['a', 'c'\]"):
        onnx_errors(static, onnx_file)


def test_a_network_that_cannot_be_traced_is_named(static: StaticModel, tmp_path: Path) -> None:
    static.outputs = lambda image: {"a": image if image.mean() > 0 else -image, "b": image}
    with pytest.raises(ExportError, match=r"cannot be written as ONNX: .*item"):
        export_onnx(static, tmp_path / "model.onnx", fold_norms=False)


def test_a_fixed_batch_size_is_refused(static: StaticModel, tmp_path: Path) -> None:
    outputs = static.outputs
    static.outputs = lambda image: {"a": outputs(image)["a"], "b": image.reshape(2, 3, 16, 16)}
    with pytest.raises(ExportError, match=r"Its batch size is fixed: reshape with x\.shape\[0\]"):
        export_onnx(static, tmp_path / "model.onnx", fold_norms=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'; allowed: fp32, fp16"),
        ({"opset": 9}, "opset is 9; allowed is a whole number from 12 to"),
        ({"opset": 999}, "opset is 999; allowed"),
    ],
)
def test_arguments_that_onnx_cannot_hold_are_refused(
    static: StaticModel, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(static, tmp_path / "model.onnx", **arguments)


@pytest.mark.parametrize("opset", [18, 23])
def test_the_wanted_opset_is_written(static: StaticModel, tmp_path: Path, opset: int) -> None:
    assert export_onnx(static, tmp_path / "model.onnx", opset=opset).opset == opset


def test_a_task_named_like_an_input_is_refused(static: StaticModel, tmp_path: Path) -> None:
    inputs = (static.manifest.inputs[0].model_copy(update={"name": "b"}),)
    static.manifest = static.manifest.model_copy(update={"inputs": inputs})
    with pytest.raises(ExportError, match=r"\['b'\] name both an input and an output"):
        export_onnx(static, tmp_path / "model.onnx")


def test_weights_over_two_gibibytes_are_refused_before_any_work(static: StaticModel, tmp_path: Path) -> None:
    static.huge = torch.nn.Parameter(torch.empty(2**29, device="meta"))
    with pytest.raises(ExportError, match=r"2\.00 GiB of weights"):
        export_onnx(static, tmp_path / "model.onnx")


def test_exporting_says_nothing(static: StaticModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(static, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_of_other_types_are_exported(dtype: torch.dtype, tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 1, 1)}
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads).eval()
    report = export_onnx(prune(gated, dtype=dtype), tmp_path / "model.onnx")
    assert report.precision == "fp32"


def test_the_report_describes_the_file(static: StaticModel, tmp_path: Path) -> None:
    report = export_onnx(static, tmp_path / "new" / "model.onnx")
    assert report.path.stat().st_size == report.size_bytes
    assert (report.inputs, report.outputs, report.digest) == (("image",), ("a", "b"), static.manifest.digest)
    assert np.isfinite(list(report.errors.values())).all()


def test_a_small_fault_is_seen_in_a_network_that_loses_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One margin for all networks hid faults of up to a twenty-thousandth of the output."""
    honest = onnx_from_static.trace_onnx

    def wrong(network: Any, **options: Any) -> Any:
        parameter(network, (5, 8, 1, 1)).mul_(1 + 4e-5)
        return honest(network, **options)

    monkeypatch.setattr(onnx_from_static, "trace_onnx", wrong)
    with pytest.raises(VerificationError, match=r"b [34](\.\d)?e-05 \(allowed 1e-05\)"):
        export_onnx(magnifying(1.0), tmp_path / "model.onnx")
