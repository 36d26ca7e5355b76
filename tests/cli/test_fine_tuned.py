"""`verify` on a network that was trained since it was pruned."""

import json
from pathlib import Path

import torch

from gate2static.export import export_onnx
from gate2static.prune import prune
from gate2static.report import was_verified
from gate2static.static import read_manifest
from tests import zoo


def test_verify_compares_a_fine_tuned_network_with_its_onnx_file_alone(run, tmp_path: Path) -> None:
    static = prune(zoo.make_gated("two_scales")[0])
    trainable = static.trainable()
    with torch.no_grad():
        next(p for p in trainable.parameters() if p.requires_grad).mul_(1.5)
    tuned = trainable.static()
    tuned.save(tmp_path / "static")
    refused = run("verify", "gated.pt", tmp_path / "static", code=2)
    assert "was fine-tuned since pruning made it" in refused.stderr
    onnx = tmp_path / "model.onnx"
    export_onnx(tuned, onnx)
    told = run("verify", "gated.pt", tmp_path / "static", "--onnx", onnx)
    assert "compared with its ONNX file only" in " ".join(told.stdout.split())
    assert not was_verified(read_manifest(tmp_path / "static"))
    told = run("verify", "gated.pt", tmp_path / "static", "--onnx", onnx, "--json", "-")
    assert json.loads(told.stdout)["passed"]
    assert "compared with its ONNX file only" in told.stderr
    # The ONNX file of another network is noticed as ever.
    export_onnx(static, tmp_path / "other.onnx")
    run("verify", "gated.pt", tmp_path / "static", "--onnx", tmp_path / "other.onnx", code=1)
