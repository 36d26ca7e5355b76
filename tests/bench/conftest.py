"""Networks small enough to time in milliseconds."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def module() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (torch.ones(1, 3, 8, 8),)


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Writes an ONNX file that squares a (batch, 4, size) tensor by matrix product."""

    def make(name: str = "model.onnx", *, batch: str | int = "batch", size: int | str = 4) -> Path:
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, size, size])
        result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, size, size])
        graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "x"], ["y"])], "g", [value], [result])
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
        return path

    return make
