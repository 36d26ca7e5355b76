"""What becomes of a static network's operators and outputs in ONNX."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gate2static.errors import VerificationError
from gate2static.export import aten_to_onnx, export_onnx, onnx_forms, onnx_tracing
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
    found = onnx_forms._attention(query, key, value, bias)
    torch.testing.assert_close(found, nn.functional.scaled_dot_product_attention(query, key, value, bias))


def test_attention_takes_keys_and_values_that_all_windows_share() -> None:
    query, shared = torch.randn(2, 3, 4, 5, 8), torch.randn(2, 1, 4, 6, 8)
    found = onnx_forms._attention(query, shared, shared)
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
    torch.testing.assert_close(onnx_forms.FORMS[operator](x, *arguments), operator(x, *arguments))


@pytest.mark.parametrize("size", [1, 2])
def test_pooling_to_any_size_is_exported(size: int, tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Unflatten(1, (8, -1)))
    gated = gate(backbone, tasks=["a"], example_inputs=(torch.randn(2, 3, 8, 8),), heads={"a": nn.Identity()})
    export_onnx(prune(gated.eval()), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Shape") <= 1, "sizes are those that the graph has, but for the batch"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_common_networks_are_traced_once(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = MagicMock(wraps=aten_to_onnx.recorded_graph)
    monkeypatch.setattr(aten_to_onnx, "recorded_graph", recorded)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8)
    )
    heads = {task: nn.Linear(8, 3) for task in ("a", "b")}
    gated = gate(backbone, tasks=list(heads), example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)
    onnx_tracing.trace_onnx(prune(gated.eval()).deployed(), opset=None, precision=precision)
    recorded.assert_called_once()


def test_a_wrong_form_of_an_operator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {_aten.flatten.using_ints: lambda x, *_: x.transpose(2, 3).reshape(x.shape[0], -1)}
    monkeypatch.setattr(onnx_forms, "FORMS", {**onnx_forms.FORMS, **wrong})
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


def exported(layer: nn.Module | Callable[[Tensor], Tensor], folder: Path, **options: Any) -> onnx.ModelProto:
    """Exports a network with a layer between two convolutions; the exporter compares it with torch."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), layer if isinstance(layer, nn.Module) else Calls(layer))
    heads = {task: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)) for task in ("a", "b")}
    image = torch.randn(2, 3, 12, 12)
    for head in heads.values():
        head(backbone.eval()(image))
    gated = gate(backbone, tasks=list(heads), example_inputs=(image,), heads=heads).eval()
    export_onnx(prune(gated), folder / "model.onnx", **options)
    return onnx.load(folder / "model.onnx")


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def means(x: Tensor) -> Tensor:
    index = (torch.arange(100) % 7).expand(x.shape[0], 8, 100)
    return x.new_zeros(x.shape[0], 8, 7).scatter_reduce(2, index, x.flatten(2), "mean")


def by_sample(x: Tensor) -> Tensor:
    """A convolution whose weight is a window of the sample itself."""
    n, c, h, w = x.shape
    weight = x[:, :, :3, :3].repeat_interleave(c, 1).reshape(n * c, c, 3, 3)
    return functional.conv2d(x.reshape(1, n * c, h, w), weight, stride=2, padding=1, groups=n).reshape(n, c, 5, 5)


def by_sample_transposed(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    weight = x[:, :, :3, :2].reshape(n * c, 1, 3, 2)
    wide = functional.conv_transpose2d(x.reshape(1, n * c, h, w), weight, stride=2, padding=1, groups=n * c)
    return wide.reshape(n, c, *wide.shape[2:])


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2, 3, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, divisor_override=4),
        nn.AvgPool2d(4, 3, 2, ceil_mode=True, divisor_override=5),
        nn.AdaptiveAvgPool2d((3, 7)),
        nn.AdaptiveMaxPool2d((3, 5)),
        means,
        by_sample,
        by_sample_transposed,
        lambda x: x.cumprod(2),
        lambda x: functional.interpolate(x, (7, 23), mode="nearest-exact"),
    ],
)
def test_operators_that_torchs_exporter_lacks_have_forms(layer: Any, tmp_path: Path) -> None:
    """Each of them pruned, and then export_onnx failed or wrote other numbers."""
    exported(layer, tmp_path)


@pytest.mark.parametrize("opset", [15, 17])
def test_older_opsets_are_written_by_the_version_converter(opset: int, tmp_path: Path) -> None:
    """Opsets below 18 were refused."""
    model = exported(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)), tmp_path, opset=opset)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]


def test_a_batch_size_can_be_fixed(tmp_path: Path) -> None:
    """Only files for any batch could be written."""
    model = exported(lambda x: x.reshape(x.shape[0], -1), tmp_path, batch_size=4)
    sizes = [value.type.tensor_type.shape.dim[0] for value in (*model.graph.input, *model.graph.output)]
    assert [(size.dim_value, size.dim_param) for size in sizes] == [(4, "")] * 3
