"""What becomes of a static network's operators and outputs in ONNX."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gate2static.export import export_onnx, onnx_tracing
from gate2static.gates import gate, set_gates
from gate2static.prune import prune


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


@pytest.mark.parametrize("head", [nn.Identity, nn.Dropout])
def test_tasks_whose_outputs_are_one_value_are_exported(head: Callable[[], nn.Module], tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    heads = {task: head() for task in ("a", "b")}
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads).eval()
    set_gates(gated, False)
    assert export_onnx(prune(gated), tmp_path / "model.onnx").outputs == ("a", "b")
