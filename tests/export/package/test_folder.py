"""An export folder: whole, described for programs, and told from older ones."""

import hashlib
import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from gate2static.errors import ExportError
from gate2static.export.package.folder import default_folder, export_package
from gate2static.static import StaticModel


def content(folder: Path):
    return json.loads((folder / "model.json").read_text())


def test_the_folder_is_whole_and_says_what_lies_in_it(package: Path, described: StaticModel) -> None:
    assert sorted(path.name for path in package.iterdir()) == ["example.cpp", "example.py", "model.json", "model.onnx"]
    found = content(package)
    (file,) = found["files"]
    assert file["sha256"] == hashlib.sha256((package / "model.onnx").read_bytes()).hexdigest()
    assert (file["file"], file["precision"], file["opset"], file["batch_size"]) == ("model.onnx", "fp32", 20, None)
    assert found["digest"] == described.manifest.digest
    assert found["macs"] == described.manifest.macs.static


def test_inputs_and_outputs_say_what_their_numbers_mean(package: Path) -> None:
    found = content(package)
    (image,) = found["inputs"]
    assert (image["layout"], image["dtype"], image["shape"]) == ("NCHW", "float32", [None, 3, 16, 16])
    assert image["picture"]["mean"] == [0.5, 0.4, 0.3]
    assert image["value_range"] == pytest.approx([-2.5, 2.5])
    a, b = found["outputs"]
    assert (a["task"], a["is_logits"], a["classes"][1]) == ("a", True, "dog")
    assert (b["task"], b["is_logits"], b["unit"], b["shape"]) == ("b", False, "m", [None, 1, 16, 16])


def test_a_network_that_nobody_described_says_so(static: StaticModel, tmp_path: Path) -> None:
    export_package(static, tmp_path, progress=False)
    found = content(tmp_path)
    assert found["inputs"][0]["picture"] is None
    assert [output["is_logits"] for output in found["outputs"]] == [None, None]


def test_the_command_line_for_the_board_has_the_shapes_of_the_batch_range(described: StaticModel, tmp_path: Path):
    _, found = export_package(described, tmp_path, batch=(1, 2, 4), progress=False)
    assert found["trtexec"]["model.onnx"] == (
        "trtexec --onnx=model.onnx --saveEngine=model.engine --minShapes=image:1x3x16x16 --optShapes=image:2x3x16x16 "
        "--maxShapes=image:4x3x16x16 --timingCacheFile=timing.cache"
    )


def test_a_fixed_batch_has_no_shapes_to_choose(described: StaticModel, tmp_path: Path) -> None:
    _, found = export_package(described, tmp_path, batch_size=2, opset=17, progress=False)
    assert (found["files"][0]["batch_size"], found["files"][0]["opset"]) == (2, 17)
    assert "Shapes" not in found["trtexec"]["model.onnx"]


def test_files_of_an_earlier_export_stay_only_if_they_are_of_the_same_network(
    described: StaticModel, tmp_path: Path
) -> None:
    export_package(described, tmp_path, precision="fp16", progress=False)
    names = {file["file"] for file in content(tmp_path)["files"]}
    assert names == {"model.onnx", "model.fp16.onnx"}
    export_package(described, tmp_path, progress=False)
    assert {file["file"] for file in content(tmp_path)["files"]} == names
    other = deepcopy(described)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    other.manifest = other.manifest.model_copy(update={"digest": "0" * 64})
    export_package(other, tmp_path, progress=False)
    assert [file["file"] for file in content(tmp_path)["files"]] == ["model.onnx"]


@pytest.mark.parametrize("text", ["[]", "{}", "nonsense", '{"digest": "DIGEST", "files": [{"file": "../model.onnx"}]}'])
def test_somebody_elses_description_is_replaced(described: StaticModel, tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text.replace("DIGEST", described.manifest.digest))
    export_package(described, tmp_path, progress=False)
    assert [file["file"] for file in content(tmp_path)["files"]] == ["model.onnx"]


@pytest.mark.parametrize(
    ("static_dir", "folder"),
    [
        ("runs/digits/gated-4/static", "exports/digits-gated-4"),
        ("nets/mine", "exports/mine"),
        ("static", "exports/static"),
    ],
)
def test_a_folder_is_named_for_its_network(static_dir: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "run.json").touch()
    assert default_folder(tmp_path / static_dir) == Path(folder)


def test_examples_of_somebody_else_stay(described: StaticModel, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("mine")
    with pytest.raises(ExportError, match=r"holds example\.py, and no model\.json of an export; give another folder"):
        export_package(described, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["example.py"]


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"precision": "fp7"}, {"batch_size": "many"}, {"file": "../other.onnx"}]
)
def test_a_kept_entry_that_does_not_fit_is_dropped(
    change: dict[str, str], described: StaticModel, tmp_path: Path
) -> None:
    export_package(described, tmp_path, progress=False)
    (tmp_path / "old.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
    old = content(tmp_path)
    entry = {**old["files"][0], "file": "old.onnx"}
    (tmp_path / "model.json").write_text(json.dumps({**old, "files": [entry]}))
    export_package(described, tmp_path, progress=False)
    assert [file["file"] for file in content(tmp_path)["files"]] == ["model.onnx", "old.onnx"]
    (tmp_path / "model.json").write_text(json.dumps({**old, "files": [{**entry, **change}]}))
    export_package(described, tmp_path, progress=False)
    assert [file["file"] for file in content(tmp_path)["files"]] == ["model.onnx"]
