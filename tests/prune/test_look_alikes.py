"""Modules and functions that look like ones with a rule and compute something else must not get that rule."""

from collections.abc import Callable
from types import MethodType

import pytest
import timm
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import gate2static as g2s
from gate2static.errors import ArtefactError, TraceError, VerificationError
from gate2static.static.graph_json import graph_from_dict
from tests import zoo

pytestmark = pytest.mark.slow


@fx.wrap
def square(x: Tensor) -> Tensor:
    """Not torch.square: it mixes the channels."""
    return x * x.sum(1, keepdim=True)


class ScaledConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class PlainConv(nn.Conv2d):
    pass


class NormAct(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(y)


class DropPath(nn.Module):
    """Has the name of stochastic depth, and halves its input in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x / 2


class Between(nn.Module):
    """Two convolutions with something in between."""

    def __init__(self, middle: Callable[[Tensor], Tensor], conv: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 1, 1), conv(8, 6, 3, 1, 1)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(self.first(x)))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.first(x), output_size=[12, 12])


def _hooked() -> nn.Module:
    backbone = Between(nn.ReLU())
    backbone.first.register_forward_hook(lambda module, inputs, output: 3 * output)
    return backbone


BACKBONES = {
    "a wrapped function called square": lambda: Between(square),
    "a convolution that scales": lambda: Between(nn.ReLU(), ScaledConv),
    "a convolution under another name": lambda: Between(nn.ReLU(), PlainConv),
    "a norm with an activation": lambda: Between(NormAct(8)),
    "a module called DropPath": lambda: Between(DropPath()),
    "a forward hook": _hooked,
    "an output size given at the call": Upsampling,
    "a chunk joined again": lambda: Between(lambda x: torch.cat(x.chunk(2, 1), 1)),
    "a reduction over everything": lambda: Between(lambda x: x + x.amax(dim=())),
    "a norm without statistics": lambda: Between(nn.BatchNorm2d(8, track_running_stats=False)),
    "a dtype read from a tensor": lambda: Between(lambda x: x * torch.linspace(0, 1, 12, dtype=x.dtype)),
}


def _gated(backbone: nn.Module) -> g2s.GatedModel:
    x = torch.randn(2, 3, 12, 12)
    heads = {task: nn.Conv2d(6, 2, 1) for task in ("a", "b")}
    return g2s.gate(backbone, tasks=["a", "b"], example_inputs=(x,), heads=heads)


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("name", BACKBONES)
def test_pruned_equals_gated(name: str, p: float) -> None:
    gated = zoo.randomise(_gated(BACKBONES[name]()), p)
    static = g2s.prune(gated)
    g2s.verify(gated, static).require()
    assert (
        int(g2s.expected_macs(gated))
        == static.manifest.macs.static
        == zoo.counted_macs(static, static.example_inputs(1))
    )


def test_a_norm_with_an_activation_still_learns_its_statistics() -> None:
    gated = _gated(Between(NormAct(8))).train()
    gated(torch.randn(4, 3, 12, 12) + 3)
    moved = [float(b.abs().max()) > 0 for n, b in gated.named_buffers() if n.endswith("running_mean")]
    assert moved == [True] * 3


def test_stochastic_depth_whose_forward_was_replaced_is_no_identity() -> None:
    middle = timm.layers.DropPath(0.1)
    middle.forward = MethodType(lambda self, x: x if self.training else x / 2, middle)  # type: ignore[method-assign]
    gated = zoo.randomise(_gated(Between(middle)))
    assert g2s.verify(gated, g2s.prune(gated)).passed


def test_a_functional_batch_norm_is_refused_because_it_would_be_frozen() -> None:
    zeros, ones = torch.zeros(8), torch.ones(8)
    with pytest.raises(TraceError, match="batch_norm as a function .* use a torch.nn.BatchNorm layer"):
        _gated(Between(lambda x: F.batch_norm(x, zeros, ones, training=False)))


def test_a_lift_that_differs_is_refused_also_when_states_are_given() -> None:
    class Aliased(Between):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y.view(y.shape[0], -1).mul_(2)
            return self.second(y)

    backbone = Aliased(nn.ReLU())
    with pytest.raises(TraceError, match="does not compute what the backbone computes"):
        g2s.gate(
            backbone,
            tasks=["a"],
            example_inputs=(torch.randn(2, 3, 12, 12),),
            heads={"a": nn.Identity()},
            shared_state=backbone.state_dict(),
        )


def test_outputs_that_overflow_are_not_verified() -> None:
    gated = zoo.randomise(_gated(Between(nn.ReLU())))
    with torch.no_grad():
        for parameter in g2s.weight_parameters(gated):
            parameter.mul_(3000)
    assert not g2s.verify(gated, g2s.prune(gated, dtype=torch.float16)).passed


def test_verifying_on_nothing_is_an_error() -> None:
    gated = zoo.randomise(_gated(Between(nn.ReLU())))
    with pytest.raises(VerificationError, match="no inputs"):
        g2s.verify(gated, g2s.prune(gated), inputs=[])


@pytest.mark.parametrize("operator", ["aten._sparse_coo_tensor_unsafe.default", "aten.as_strided.default"])
def test_operators_that_trust_their_indices_are_refused(operator: str) -> None:
    nodes = [{"op": "call_function", "target": operator, "args": [], "kwargs": {}}]
    with pytest.raises(ArtefactError, match="is not allowed"):
        graph_from_dict(nodes, {})


def test_arguments_nested_without_end_are_refused() -> None:
    nested: list[object] = []
    for _ in range(300):
        nested = [nested]
    nodes = [{"op": "call_function", "target": "aten.relu.default", "args": nested, "kwargs": {}}]
    with pytest.raises(ArtefactError, match="nested too deep"):
        graph_from_dict(nodes, {})
