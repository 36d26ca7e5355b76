"""What cannot be pruned is refused before it is trained."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gate2static.errors import TraceError
from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.verify import verify

IMAGE = torch.randn(2, 3, 12, 12)


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Conv2d(3, 8, 3, 1, 1), function, nn.LazyConv2d(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def gated(function: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    backbone = Between(function).eval()
    backbone(IMAGE)
    model = gate(backbone, tasks=["a", "b"], example_inputs=(IMAGE,), heads={t: nn.Conv2d(6, 2, 1) for t in "ab"})
    for branch in model.branches.values():
        for parameter in branch.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    set_gates(model, {unit: torch.rand_like(g.alpha) < 0.5 for unit, g in model.gates.items()})
    return model.eval()


def pooled_at_boxes(x: Tensor) -> Tensor:
    boxes = torch.cat([torch.arange(x.shape[0], dtype=x.dtype)[:, None], x.new_ones(x.shape[0], 2) * 4], 1)
    return torchvision.ops.ps_roi_pool(x, torch.cat([boxes, boxes[:, 1:] * 2], 1), (2, 2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (pooled_at_boxes, "could be trained but not pruned: .*torchvision.ps_roi_pool"),
        (lambda x: x.as_strided((x.shape[0], 8, 6, 6), (1152, 144, 24, 2)), "not pruned: .*aten.as_strided"),
        (lambda x: torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127), "quantises its values itself"),
        (lambda x: nn.functional.dropout(x, 0.5), "not compute what the backbone computes|drops values in evaluation"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_training(
    function: Callable[[Tensor], Tensor], message: str
) -> None:
    """Gate and training took it, and prune ended in an error."""
    with pytest.raises(TraceError, match=message):
        gated(function)


def test_what_onnx_lacks_is_said_before_training() -> None:
    """Only export_onnx said so."""
    with pytest.warns(UserWarning, match="aten.digamma.default has no form in ONNX"):
        gated(lambda x: torch.digamma(x.abs() + 1))


def swapped(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[:, 0::2], out[:, 1::2] = x[:, 1::2], x[:, 0::2]
    return out


def at_boxes(x: Tensor) -> Tensor:
    boxes = x.new_tensor([[1.0, 2.0, 9.0, 8.0]]).expand(x.shape[0], 4)
    first = torch.arange(x.shape[0], dtype=x.dtype)[:, None]
    return torchvision.ops.roi_align(x, torch.cat([first, boxes], 1), (4, 4))


def conjugated(x: Tensor) -> Tensor:
    z = torch.fft.rfft2(x)
    return torch.view_as_real(z * z.conj()).flatten(3)


@pytest.mark.parametrize(
    "function",
    [
        swapped,
        at_boxes,
        conjugated,
        lambda x: nn.functional.interpolate(x, scale_factor=2, mode="nearest-exact"),
        lambda x: nn.functional.rrelu(x),
    ],
)
def test_pure_functions_are_pruned_and_saved(function: Callable[[Tensor], Tensor]) -> None:
    """Gate and training took them, and prune refused to save them."""
    model = gated(function)
    assert verify(model, prune(model)).passed


def test_deformable_convolutions_are_pruned() -> None:
    """Their operator is torchvision's, which a static network cannot name."""
    torch.manual_seed(0)

    class Deformable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Conv2d(8, 18, 3, 1, 1)
            self.layer = torchvision.ops.DeformConv2d(8, 6, 3, padding=1, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, self.offset(x))

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), Deformable()).eval()
    model = gate(backbone, tasks=["a", "b"], example_inputs=(IMAGE,), heads={t: nn.Conv2d(6, 2, 1) for t in "ab"})
    assert verify(model.eval(), prune(model)).passed


def test_heads_of_another_type_than_the_backbone_may_be_converted_afterwards() -> None:
    """The check of bounds refused them, although it says nothing about types."""
    backbone = nn.Conv2d(3, 4, 1).double()
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 5 * 5, 2))
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    gated = gate(backbone, tasks=["a"], example_inputs=(x,), heads={"a": head}).double()
    assert gated(x)["a"].dtype == torch.float64
