"""What becomes of a static network's operators and outputs in ONNX."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import VerificationError
from gate2static.export import export_onnx, onnx_tracing
from gate2static.gates import gate, set_gates
from gate2static.prune import prune

_aten = torch.ops.aten


class WindowAttention(nn.Module):
    """Attention within windows of four tokens: (batch, heads, windows, tokens, width) has five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(x.flatten(2).transpose(1, 2))
        q, k, v = tokens.reshape(x.shape[0], -1, 4, 3, 2, 4).permute(3, 0, 4, 1, 2, 5).unbind(0)
        return nn.functional.scaled_dot_product_attention(q, k, v, self.bias).mean(dim=(2, 3))


class HeadsInBatch(nn.Module):
    """Self-attention of four heads whose query, key and value are (batch · heads, tokens, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(x.flatten(2).transpose(1, 2))
        q, k, v = tokens.reshape(x.shape[0], -1, 3, 4, 2).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        return heads.reshape(x.shape[0], 4, -1, 2).transpose(1, 2).flatten(2).mean(dim=1)


@pytest.mark.parametrize("attention", [WindowAttention, HeadsInBatch])
def test_attention_over_other_than_four_dimensions_is_exported(attention: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 4, 4), attention())
    gated = gate(backbone, tasks=["a"], example_inputs=(torch.randn(2, 3, 16, 16),), heads={"a": nn.Identity()})
    report = export_onnx(prune(gated.eval()), tmp_path / "model.onnx")
    assert report.errors["a"] < 5e-5


@pytest.mark.parametrize("leading", [(), (3,), (2, 4), (2, 3, 4), (2, 2, 3, 4)])
@pytest.mark.parametrize("mask", [None, (5, 6), (1, 6)])
def test_attention_takes_any_leading_dimensions(leading: tuple[int, ...], mask: tuple[int, int] | None) -> None:
    query, key, value = torch.randn(*leading, 5, 8), torch.randn(*leading, 6, 8), torch.randn(*leading, 6, 7)
    bias = None if mask is None else torch.randn(mask)
    found = onnx_tracing._attention(query, key, value, bias)
    torch.testing.assert_close(found, nn.functional.scaled_dot_product_attention(query, key, value, bias))


def test_attention_takes_keys_and_values_that_all_windows_share() -> None:
    query, shared = torch.randn(2, 3, 4, 5, 8), torch.randn(2, 1, 4, 6, 8)
    found = onnx_tracing._attention(query, shared, shared)
    assert torch.allclose(found, nn.functional.scaled_dot_product_attention(query, shared, shared), atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "shape", "arguments"),
    [
        (_aten.flatten.using_ints, (2, 3, 4, 5), ()),
        (_aten.flatten.using_ints, (), ()),
        (_aten.flatten.using_ints, (2, 3, 4, 5), (1, -2)),
        (_aten.flatten.using_ints, (2, 3, 4, 5), (-1,)),
        (_aten.unflatten.int, (2, 12, 5), (1, [3, -1])),
        (_aten.unflatten.int, (2, 12, 5), (-2, [3, 2, 2])),
        (_aten.movedim.int, (), (0, 0)),
        (_aten.movedim.int, (2, 3, 4, 5), (1, 3)),
        (_aten.movedim.int, (2, 3, 4, 5), (-1, 1)),
        (_aten.movedim.int, (2, 3, 4, 5), (0, -2)),
        (_aten.adaptive_avg_pool2d.default, (2, 3, 4, 5), ([1, 1],)),
        (_aten.adaptive_avg_pool2d.default, (2, 3, 4, 5), ([2, 1],)),
        (_aten.adaptive_avg_pool2d.default, (3, 4, 5), ([1, 1],)),
        (_aten.to.dtype, (2, 3), (torch.half,)),
    ],
)
def test_operators_written_out_compute_what_torch_computes(
    operator: torch._ops.OpOverload, shape: tuple[int, ...], arguments: tuple[Any, ...]
) -> None:
    x = torch.randn(shape)
    torch.testing.assert_close(onnx_tracing._WRITTEN_OUT[operator](x, *arguments), operator(x, *arguments))


class Images(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *images: Tensor) -> Tensor:
        return self.function(images[0])


def test_only_programs_with_operators_to_decompose_are_traced_again() -> None:
    def traced(function: Callable[[Tensor], Tensor]) -> torch.export.ExportedProgram:
        return onnx_tracing._exported(Images(function), (torch.randn(2, 3, 8, 8),))

    plain, composite = traced(lambda x: x.reshape(-1, 3, 64).relu()), traced(lambda x: x.movedim(1, 2))
    norm = traced(lambda x: nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3)))
    assert plain.run_decompositions({_aten.gelu.default: None}) is plain
    assert plain.run_decompositions({_aten.relu.default: lambda x: x.clamp(min=0)}) is not plain
    assert composite.run_decompositions({}) is not composite
    assert norm.run_decompositions({}) is not norm


@pytest.mark.parametrize("size", [1, 2])
def test_pooling_to_any_size_is_exported(size: int, tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Unflatten(1, (8, -1)))
    gated = gate(backbone, tasks=["a"], example_inputs=(torch.randn(2, 3, 8, 8),), heads={"a": nn.Identity()})
    export_onnx(prune(gated.eval()), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Shape") <= 1, "sizes are those that the graph has, but for the batch"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_common_networks_are_traced_once(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    again = MagicMock(side_effect=AssertionError("traced again"))
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", again)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8)
    )
    heads = {task: nn.Linear(8, 3) for task in ("a", "b")}
    gated = gate(backbone, tasks=list(heads), example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)
    onnx_tracing.trace_onnx(prune(gated.eval()).deployed(), opset=None, precision=precision)
    again.assert_not_called()


def test_a_wrong_form_of_an_operator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnx_tracing._WRITTEN_OUT, _aten.flatten.using_ints, lambda x, *_: x.mT.reshape(x.shape[0], -1))
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    gated = gate(backbone, tasks=["a"], example_inputs=(torch.randn(2, 3, 8, 8),), heads={"a": nn.Identity()})
    with pytest.raises(VerificationError):
        export_onnx(prune(gated.eval()), tmp_path / "model.onnx")


@pytest.mark.parametrize("head", [nn.Identity, nn.Dropout])
def test_tasks_whose_outputs_are_one_value_are_exported(head: Callable[[], nn.Module], tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    heads = {task: head() for task in ("a", "b")}
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads).eval()
    set_gates(gated, False)
    assert export_onnx(prune(gated), tmp_path / "model.onnx").outputs == ("a", "b")
