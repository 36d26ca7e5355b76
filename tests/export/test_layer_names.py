"""Nodes of an ONNX file are named for the layer that they come from, and for the streams whose channels they have."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gate2static.export import export_onnx, quantize_onnx
from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.static import StaticModel, load_static

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def names(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type in LAYERS]


class Tokens(nn.Module):
    """Linear layers on tokens, one of which has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def test_every_layer_says_where_it_comes_from(static: StaticModel, tmp_path: Path) -> None:
    found = names(export_onnx(static, tmp_path / "model.onnx").path)
    assert "heads.b" in found
    assert "heads.a.linear" in found
    assert all("/" in name or name.startswith("heads.") for name in found)
    assert len(set(found)) == len(found)
    streams = {name.partition("/")[2].partition("#")[0] for name in found if not name.startswith("heads")}
    assert streams <= {"a", "b", "shared", "a_b", "a_shared", "b_shared", "a_b_shared"}


@pytest.mark.parametrize(("specific", "streams"), [(False, {"shared"}), (True, {"a", "b"})], ids=["shared", "specific"])
def test_streams_are_those_whose_channels_were_kept(specific: bool, streams: set[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = {"a": nn.Linear(8, 2), "b": nn.Linear(8, 3)}
    gated = gate(Tokens(), tasks=["a", "b"], example_inputs=(torch.randn(2, 5, 6),), heads=heads)
    set_gates(gated, specific)
    static = prune(gated.eval())
    static.save(tmp_path / "static")
    found = names(export_onnx(load_static(tmp_path / "static"), tmp_path / "model.onnx").path)
    of_second = {name.partition("/")[2] for name in found if name.startswith("second/")}
    assert of_second == streams
    assert {"heads.a", "heads.b"} <= set(found)


@pytest.mark.parametrize("form", ["fp16", "int8", "opset 17"])
def test_names_survive_other_forms_of_the_file(static: StaticModel, tmp_path: Path, form: str) -> None:
    expected = names(export_onnx(static, tmp_path / "model.onnx").path)
    if form == "int8":
        batch = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
        quantize_onnx(tmp_path / "model.onnx", tmp_path / "other.onnx", [batch])
    elif form == "fp16":
        export_onnx(static, tmp_path / "other.onnx", precision="fp16")
    else:
        export_onnx(static, tmp_path / "other.onnx", opset=17)
    assert names(tmp_path / "other.onnx") == expected
