"""`export`: the files that a choice of formats makes, each from the one before."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gate2static.errors import ExportError, MissingDependencyError
from gate2static.export import export_static, export_table, formats
from gate2static.static import StaticModel
from gate2static.terminal import console

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx not installed")


@needs_rtx
def test_each_file_is_made_from_the_one_before(
    static: StaticModel, tmp_path: Path, folder_contents: Callable[[], list[str]]
) -> None:
    np.save(tmp_path / "images.npy", static.example_inputs(4)[0].numpy())
    reports = export_static(
        static,
        tmp_path,
        engines=["tensorrt-rtx"],
        precision="int8",
        calibration=tmp_path / "images.npy",
        compute_capabilities=["8.9"],
    )
    made = ["model.onnx", "model.int8.onnx", "model.int8.trt-rtx.engine"]
    assert [report.path.name for report in reports] == made
    assert folder_contents() == sorted([*made, "model.int8.trt-rtx.engine.json", "images.npy"])
    printer = console(width=120)
    with printer.capture() as capture:
        printer.print(export_table(reports))
    assert "RMS against fp32 on 4 samples" in capture.get()
    assert "tensorrt-rtx for compute capability 8.9" in capture.get()


def test_fp16_and_pt2_lie_beside_each_other(
    static: StaticModel, tmp_path: Path, folder_contents: Callable[[], list[str]]
) -> None:
    export_static(static, tmp_path, pt2=True, precision="fp16")
    assert folder_contents() == ["model.fp16.onnx", "model.pt2"]


def test_a_library_that_is_missing_is_found_before_anything_is_made(
    static: StaticModel, tmp_path: Path, folder_contents: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(backend: str) -> Any:
        raise MissingDependencyError(f"{backend} is not installed")

    monkeypatch.setattr(formats, "trt_library", missing)
    with pytest.raises(MissingDependencyError, match="tensorrt is not installed"):
        export_static(static, tmp_path, pt2=True, engines=["tensorrt"])
    assert folder_contents() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"onnx": False}, "nothing to export"),
        ({"precision": "int8"}, "int8 needs calibration data"),
        ({"calibration": "images.npy"}, "int8 needs calibration data"),
        ({"precision": "int4"}, "unknown precision 'int4'; allowed: fp32, fp16, int8"),
        ({"engines": ["openvino"]}, "unknown engine backend 'openvino'"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    static: StaticModel, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_static(static, tmp_path, **arguments)
