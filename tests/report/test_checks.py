"""What `verify` found, kept in the manifest of a static network."""

import json

import pytest
import torch
from torch import nn

from gate2static.errors import ArtefactError
from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.report.checks import checks_table, gated_checks, onnx_checks, read_checks, record, was_verified
from gate2static.static.folder import read_manifest
from gate2static.verify import verify


@pytest.fixture(scope="module")
def networks():
    heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 2, 1)}
    backbone, example = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(2, 3, 8, 8)
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(example,), heads=heads)
    set_gates(gated.eval(), True)
    return gated, prune(gated)


@pytest.fixture
def static_dir(networks, tmp_path):
    networks[1].save(tmp_path / "static")
    return tmp_path / "static"


def test_what_verify_found_is_kept_in_the_manifest(networks, static_dir):
    assert not was_verified(read_manifest(static_dir))
    record(static_dir, gated_checks(verify(*networks)))
    manifest = read_manifest(static_dir)
    assert was_verified(manifest)
    assert manifest.equivalence["passed"] is True
    assert [(check.comparison, check.task) for check in read_checks(manifest)] == [
        *((f"gated / static, {dtype}", task) for dtype in ("float64", "float32") for task in ("a", "b")),
        ("gated / static, differing parts", "all"),
    ]


def test_a_weight_that_only_pruning_again_shows_fails_the_entry(networks, static_dir):
    report = verify(*networks).model_copy(update={"changed": ("parameter_0",)})
    manifest = record(static_dir, gated_checks(report))
    assert manifest.equivalence["passed"] is False
    assert not was_verified(manifest)


def test_a_new_comparison_takes_the_place_of_the_old_one_of_its_kind_only(networks, static_dir):
    record(static_dir, gated_checks(verify(*networks)))
    record(static_dir, onnx_checks({"a": 1e-3, "b": 1e-7}, dict.fromkeys("ab", 5e-5)))
    manifest = record(static_dir, onnx_checks({"a": 1e-7, "b": 1e-7}, dict.fromkeys("ab", 5e-5)))
    checks = read_checks(manifest)
    assert len(checks) == 7
    assert all(check.passed for check in checks)


def test_a_failed_onnx_comparison_fails_the_entry_but_not_the_gated_one(networks, static_dir):
    record(static_dir, gated_checks(verify(*networks)))
    manifest = record(static_dir, onnx_checks({"a": 1e-3, "b": 1e-7}, dict.fromkeys("ab", 5e-5)))
    assert manifest.equivalence["passed"] is False
    assert was_verified(manifest)
    assert [check.task for check in read_checks(manifest) if not check.passed] == ["a"]


def test_a_difference_that_is_not_finite_survives_json(static_dir):
    record(static_dir, onnx_checks({"a": float("inf"), "b": float("nan")}, dict.fromkeys("ab", 5e-5)))
    manifest = read_manifest(static_dir)
    assert [check.max_rel for check in read_checks(manifest)] == [None, None]
    assert not any(check.passed for check in read_checks(manifest))
    assert "not finite" in list(checks_table(read_checks(manifest)).columns[2].cells)


def test_an_entry_that_is_not_ours_is_an_error(static_dir):
    path = static_dir / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "equivalence": {"checks": [{"comparison": "x"}]}}))
    with pytest.raises(ArtefactError, match="equivalence entry is not one of ours: .*prune again"):
        read_checks(read_manifest(static_dir))
