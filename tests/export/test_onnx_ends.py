"""Preprocessing and argmax inside an ONNX file: bytes come in, classes come out, and nothing else changes."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from gate2static.bench import benchmark
from gate2static.errors import ExportError, VerificationError
from gate2static.export import export_onnx, export_static, onnx_ends, onnx_errors, quantize_onnx
from gate2static.export.package.folder import export_package
from gate2static.files import sha256_of
from gate2static.runtimes.onnxruntime import open_session
from gate2static.static import StaticModel

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
NUMBERS = ((torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255) - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / (
    torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
)


def outputs_of(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = open_session(path, as_written=True)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))


@pytest.mark.parametrize(
    "form", [{}, {"precision": "fp16"}, {"opset": 17}, {"batch_size": 5}], ids=["fp32", "fp16", "opset", "batch"]
)
def test_bytes_and_classes_are_those_of_the_plain_file(described: StaticModel, tmp_path: Path, form) -> None:
    export_onnx(described, tmp_path / "plain.onnx", **form)
    report = export_onnx(described, tmp_path / "ends.onnx", preprocess=True, argmax=True, **form)
    plain = outputs_of(tmp_path / "plain.onnx", NUMBERS.numpy())
    found = outputs_of(tmp_path / "ends.onnx", PICTURES)
    assert found["a"].dtype == np.int32
    assert found["a"].tolist() == plain["a"].argmax(1).tolist()
    np.testing.assert_allclose(found["b"], plain["b"], rtol=0, atol=1e-5 * np.abs(plain["b"]).max())
    assert report.sha256 == sha256_of((tmp_path / "ends.onnx").read_bytes())


def test_it_computes_what_torch_computes_on_the_same_pictures(described: StaticModel, tmp_path: Path) -> None:
    export_onnx(described, tmp_path / "ends.onnx", preprocess=True)
    found = outputs_of(tmp_path / "ends.onnx", PICTURES)
    for task, right in described(NUMBERS).items():
        np.testing.assert_allclose(found[task], right, rtol=0, atol=1e-5 * right.abs().max())


def test_names_of_layers_and_the_digest_stay_and_the_file_is_timed(described: StaticModel, tmp_path: Path) -> None:
    export_onnx(described, tmp_path / "plain.onnx")
    export_onnx(described, tmp_path / "ends.onnx", preprocess=True, argmax=True)
    plain, ends = (onnx.load(tmp_path / f"{name}.onnx") for name in ("plain", "ends"))
    assert {node.name for node in plain.graph.node} < {node.name for node in ends.graph.node}
    properties = {entry.key: entry.value for entry in ends.metadata_props}
    assert properties["gate2static.digest"] == described.manifest.digest
    report = benchmark([tmp_path / "ends.onnx"], backends=["onnxruntime"], rounds=2, duration_s=0.02, warmup_s=0.0)
    assert report.targets[0].median_ms > 0


def test_int8_is_made_from_the_plain_network_and_described_for_programs(described: StaticModel, tmp_path: Path) -> None:
    np.save(tmp_path / "calibration.npy", NUMBERS.numpy())
    quantised = {"precision": "int8", "calibration": tmp_path / "calibration.npy", "progress": False}
    export_static(described, tmp_path / "plain", **quantised)
    export_package(described, tmp_path / "ends", preprocess=True, argmax=True, **quantised)
    for name in ("model.onnx", "model.int8.onnx"):
        plain = outputs_of(tmp_path / "plain" / name, NUMBERS.numpy())
        found = outputs_of(tmp_path / "ends" / name, PICTURES)
        assert found["a"].tolist() == plain["a"].argmax(1).tolist()
        np.testing.assert_array_equal(found["b"], plain["b"])
    content = json.loads((tmp_path / "ends" / "model.json").read_text())
    (image,) = content["inputs"]
    assert (image["layout"], image["dtype"], image["shape"]) == ("NHWC", "uint8", [None, 16, 16, 3])
    assert (image["value_range"], image["picture"]) == ([0, 255], {"formula": "byte", "colours": "RGB"})
    a, b = content["outputs"]
    assert (a["dtype"], a["shape"], a["activation"], a["classes"][1]) == ("int32", [None], "none", "dog")
    assert [(output["is_logits"], output["is_class"]) for output in (a, b)] == [(False, True), (False, False)]
    assert "--minShapes=image:1x16x16x3" in content["trtexec"]["model.onnx"]
    # What an export with other inputs left is not what `model.json` describes.
    _, content = export_package(described, tmp_path / "ends", progress=False)
    assert [file["file"] for file in content["files"]] == ["model.onnx"]


def test_a_wrong_normalisation_is_found_before_the_file_is_written(
    described: StaticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_bytes = onnx_ends._take_bytes

    def wrong(library, graph, value, picture) -> None:
        take_bytes(library, graph, value, picture.model_copy(update={"mean": (0.5, 0.4, 0.301)}))

    monkeypatch.setattr(onnx_ends, "_take_bytes", wrong)
    with pytest.raises(VerificationError, match="computes another a"):
        export_onnx(described, tmp_path / "ends.onnx", preprocess=True)
    assert not (tmp_path / "ends.onnx").exists()


def test_what_the_network_does_not_say_is_refused(
    static: StaticModel, described: StaticModel, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="does not say how a picture becomes its input: prune it from"):
        export_onnx(static, tmp_path / "x.onnx", preprocess=True)
    with pytest.raises(ExportError, match="no output of the network is known to be logits of classes"):
        export_onnx(static, tmp_path / "x.onnx", argmax=True)
    with pytest.raises(ExportError, match="leave out pt2, or preprocess and argmax"):
        export_static(described, tmp_path, pt2=True, argmax=True)


def test_a_file_with_ends_is_neither_quantised_nor_compared_again(described: StaticModel, tmp_path: Path) -> None:
    export_onnx(described, tmp_path / "ends.onnx", argmax=True)
    with pytest.raises(ExportError, match="which would be quantised too"):
        quantize_onnx(tmp_path / "ends.onnx", tmp_path / "int8.onnx", [NUMBERS.numpy()])
    with pytest.raises(ExportError, match="measure this one with `gate2static evaluate`"):
        onnx_errors(described, tmp_path / "ends.onnx")
