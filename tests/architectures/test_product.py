"""Architectures on families of backbones, from a step of training to an ONNX file; the benchmark has all pairs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.architectures.product import BACKBONES, REFUSED, TASKS, built, check, images, outcome, train_one_step
from gate2static.architectures import ARCHITECTURES, as_gated
from gate2static.prune import prune

EQUAL = [("afa", "ResNet-18"), ("branching", "ViT-small"), ("nddr", "MobileNetV3")]
"""What is tested here, since every pair takes some seconds; the benchmark has all."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), EQUAL)
def test_each_becomes_an_equal_static_network_and_onnx_file(name: str, backbone: str) -> None:
    assert outcome(name, backbone) == "equal"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), [pair for pair in REFUSED if pair[1] == "ViT-small"])
def test_each_refuses_what_it_is_not_made_for(name: str, backbone: str) -> None:
    assert outcome(name, backbone) == "refused"


def test_pairs_exist() -> None:
    assert all(name in ARCHITECTURES and backbone in BACKBONES for name, backbone in [*EQUAL, *REFUSED])


@pytest.mark.slow
def test_a_wrong_rewrite_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = built("branching", "ResNet-18")
    train_one_step(network)
    gated = as_gated(network, (images(),))
    with torch.no_grad():
        next(iter(network.streams.parameters())).mul_(1 + 1e-6)
    monkeypatch.setattr("gate2static.as_gated", lambda *_: gated)
    with pytest.raises(AssertionError, match="differs by"):
        check(network, tmp_path)


@pytest.mark.slow
def test_a_saved_network_is_the_same_in_another_process(tmp_path: Path) -> None:
    network = built("branching", "ResNet-18")
    train_one_step(network)
    prune(as_gated(network, (images(),))).save(tmp_path / "static")
    with torch.no_grad():
        expected = network.double()(images().double())
    torch.save((images().double(), expected), tmp_path / "expected.pt")
    code = """
import sys, torch
import gate2static as g2s
x, expected = torch.load(sys.argv[2])
outputs = g2s.load_static(sys.argv[1]).double()(x)
for task, output in expected.items():
    assert float((output - outputs[task]).abs().max() / output.abs().max()) < 1e-9
assert "gate2static.architectures" not in sys.modules
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "static"), str(tmp_path / "expected.pt")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(expected) == set(TASKS)
