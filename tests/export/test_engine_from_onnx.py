"""TensorRT engines from ONNX files, their sidecars, and builds that fail."""

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from gate2static import export
from gate2static.errors import ExportError, MissingDependencyError
from gate2static.export import engine_from_onnx, export_onnx, quantize_onnx
from gate2static.export.engine_sidecar import read_sidecar, sidecar_path
from gate2static.runtimes.tensorrt import TrtLibrary
from gate2static.static import StaticModel

build_engine = partial(export.build_engine, compute_capabilities=("8.9",))
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx not installed")


@needs_rtx
def test_an_engine_is_built_without_a_gpu_and_described_by_its_sidecar(
    static: StaticModel, onnx_file: Path, tmp_path: Path
) -> None:
    report = build_engine(onnx_file, tmp_path / "model.engine", compute_capabilities=("8.6", "8.9"), batch=(1, 2, 4))
    engine = (tmp_path / "model.engine").read_bytes()
    sidecar = json.loads((tmp_path / "model.engine.json").read_text())
    assert sidecar["sha256"] == sha256(engine).hexdigest()
    assert sidecar["onnx_sha256"] == sha256(onnx_file.read_bytes()).hexdigest()
    assert sidecar["digest"] == static.manifest.digest
    assert sidecar["compute_capabilities"] == ["8.6", "8.9"]
    assert sidecar["batch"] == [1, 2, 4]
    assert sidecar["inputs"] == [{"name": "image", "shape": [-1, 3, 16, 16], "dtype": "float"}]
    assert [output["name"] for output in sidecar["outputs"]] == ["a", "b"]
    assert read_sidecar(tmp_path / "model.engine") == report.sidecar


@needs_rtx
def test_precision_comes_from_the_graph(static: StaticModel, onnx_file: Path, tmp_path: Path) -> None:
    export_onnx(static, tmp_path / "half.onnx", precision="fp16")
    quantize_onnx(onnx_file, tmp_path / "int8.onnx", [np.ones((4, 3, 16, 16), np.float32)])
    found = [
        build_engine(path, path.with_suffix(".engine")).sidecar.precision
        for path in (onnx_file, tmp_path / "half.onnx", tmp_path / "int8.onnx")
    ]
    assert found == ["fp32", "fp16", "int8"]


@needs_rtx
def test_an_operator_the_parser_lacks_is_named_on_its_own_line(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"], name="odd_one", domain="unknown.domain")
    imports = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("unknown.domain", 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [result]), opset_imports=imports)
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"cannot read .*odd\.onnx:\n  odd_one \(NoSuchOperator\): "):
        build_engine(tmp_path / "odd.onnx", tmp_path / "odd.engine")


@needs_rtx
def test_a_failed_build_gives_the_librarys_reason_and_keeps_the_old_engine(onnx_file: Path, tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"old")
    with pytest.raises(ExportError, match=r"could not build .*model\.onnx for compute capability 7\.5: .*Turing"):
        build_engine(onnx_file, tmp_path / "model.engine", compute_capabilities=("7.5",))
    assert (tmp_path / "model.engine").read_bytes() == b"old"


@needs_rtx
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "openvino"}, "unknown engine backend 'openvino'; allowed: tensorrt-rtx, tensorrt"),
        ({"compute_capabilities": ("9.9",)}, r"cannot build for compute capability 9\.9; allowed: 7\.5, 8\.0"),
        ({"compute_capabilities": ()}, "cannot build for compute capability none"),
        ({"batch": (4, 2, 8)}, r"batch sizes \(4, 2, 8\) must be three numbers"),
    ],
)
def test_wrong_arguments_name_what_is_allowed(
    onnx_file: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        build_engine(onnx_file, tmp_path / "model.engine", **arguments)
    assert not (tmp_path / "model.engine").exists()


def test_a_truncated_onnx_file_is_one_clear_line(onnx_file: Path, tmp_path: Path) -> None:
    onnx_file.write_bytes(onnx_file.read_bytes()[:3000])
    with pytest.raises(ExportError, match=r"model\.onnx \(3000 bytes\) is not a complete ONNX model") as caught:
        build_engine(onnx_file, tmp_path / "model.engine")
    assert "\n" not in str(caught.value)


@needs_rtx
def test_a_fixed_batch_size_is_taken_as_it_is(onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(ExportError, match="input image has the fixed batch size 2"):
        build_engine(tmp_path / "fixed.onnx", tmp_path / "fixed.engine")
    report = build_engine(tmp_path / "fixed.onnx", tmp_path / "fixed.engine", batch=(2, 2, 2))
    assert report.sidecar.inputs[0].shape == (2, 3, 16, 16)


@needs_rtx
def test_an_engine_that_is_not_its_sidecars_is_refused(onnx_file: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    build_engine(onnx_file, engine)
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(ExportError, match=r"model\.engine is not the engine that model\.engine\.json describes"):
        read_sidecar(engine)


def test_a_sidecar_that_is_missing_or_foreign_is_refused(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"plan")
    with pytest.raises(ExportError, match=r"cannot read the engine's sidecar .*model\.engine\.json"):
        read_sidecar(engine)
    sidecar_path(engine).write_text('{"format": 2}')
    with pytest.raises(ExportError, match=r"model\.engine\.json is not an engine's sidecar: format: Input should be 1"):
        read_sidecar(engine)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_tensorrt_without_its_library_or_gpu_says_how_to_get_it(onnx_file: Path, tmp_path: Path) -> None:
    fix = "needs an NVIDIA GPU" if importlib.util.find_spec("tensorrt") else r"pip install tensorrt "
    with pytest.raises(MissingDependencyError, match=fix):
        build_engine(onnx_file, tmp_path / "model.engine", backend="tensorrt")


def test_a_library_that_cannot_start_here_gives_its_reason(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def null_builder(_: Any) -> None:
        library.messages.append("CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module = SimpleNamespace(__version__="1.0", Builder=null_builder)
    library = TrtLibrary("tensorrt-rtx", module, None)
    monkeypatch.setattr(engine_from_onnx, "trt_library", lambda _: library)
    with pytest.raises(MissingDependencyError, match=r"cannot make its Builder .* CUDA initialization failure"):
        build_engine(onnx_file, tmp_path / "model.engine")


@needs_rtx
def test_building_says_nothing(onnx_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_engine(onnx_file, tmp_path / "model.engine")
    assert capfd.readouterr() == ("", "")


@needs_rtx
def test_a_workspace_that_is_too_small_is_said_to_be(onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"within workspace limit.*\n.*larger workspace"):
        build_engine(onnx_file, tmp_path / "model.engine", workspace_bytes=1 << 10)


@needs_rtx
def test_a_build_writes_two_files_and_no_more(
    onnx_file: Path, tmp_path: Path, folder_contents: Callable[[], list[str]]
) -> None:
    build_engine(onnx_file, tmp_path / "model.engine", workspace_bytes=1 << 26)
    assert folder_contents() == ["model.engine", "model.engine.json", "model.onnx"]


@needs_rtx
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_gpu_to_build_for_must_be_named(onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="this machine has none to build for: name them .* such as 8.9"):
        build_engine(onnx_file, tmp_path / "model.engine", compute_capabilities=None)
    assert not (tmp_path / "model.engine").exists()


@needs_rtx
def test_the_gpu_at_hand_is_what_an_engine_is_built_for(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    report = build_engine(onnx_file, tmp_path / "model.engine", compute_capabilities=None)
    assert report.sidecar.compute_capabilities == ("8.6",)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (5, 2))
    with pytest.raises(ExportError, match=r"cannot build for compute capability 5\.2; allowed: 7\.5"):
        build_engine(onnx_file, tmp_path / "model.engine", compute_capabilities=None)


@needs_rtx
def test_a_timing_cache_is_for_tensorrt(onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a timing cache is for the backend tensorrt"):
        build_engine(onnx_file, tmp_path / "model.engine", timing_cache=tmp_path / "timing.cache")


@pytest.mark.parametrize(("accepted", "used"), [(True, b"earlier"), (False, b"")])
def test_a_build_uses_earlier_timings_unless_they_are_of_another_gpu(
    tmp_path: Path, accepted: bool, used: bytes
) -> None:
    given: list[bytes] = []
    config = SimpleNamespace(
        create_timing_cache=lambda data: SimpleNamespace(serialize=lambda: data + b"+new"),
        set_timing_cache=lambda cache, ignore: given.append(cache.serialize()) or accepted or len(given) > 1,
    )
    (tmp_path / "timing.cache").write_bytes(b"earlier")
    cache = engine_from_onnx._use_cache(config, tmp_path / "timing.cache")
    assert cache.serialize() == used + b"+new"
    assert engine_from_onnx._use_cache(config, tmp_path / "none").serialize() == b"+new"
