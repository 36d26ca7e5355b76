"""A module whose own forward was replaced computes what that says, whatever its class is."""

import types
from collections.abc import Callable

import pytest
import torch
from timm.layers import norm_act
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.prune import prune
from gate2static.verify import verify
from tests.program.tracing import gated, scramble, traced

IMAGES = torch.randn(2, 3, 4, 4)


def convolution(self: nn.Conv2d, x: Tensor) -> Tensor:
    return 2 * F.conv2d(x, self.weight.abs(), self.bias, padding=1)


def turned(self: nn.Module, x: Tensor) -> Tensor:
    return x.flip(1) * 2


class Patched(nn.Module):
    def __init__(self, layer: nn.Module, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        layer.forward = types.MethodType(forward, layer)  # type: ignore[method-assign]
        self.first, self.layer, self.last = nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x)))


LAYERS = {
    "Conv2d": (lambda: nn.Conv2d(8, 8, 3, padding=1), convolution),
    "Dropout": (nn.Dropout, turned),
    "ReLU": (nn.ReLU, turned),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(8), turned),
    "GroupNorm": (lambda: nn.GroupNorm(2, 8), turned),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), turned),
    "BatchNormAct2d": (lambda: norm_act.BatchNormAct2d(8), turned),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8), turned),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_replaced_forward_is_what_is_gated_and_pruned(name: str) -> None:
    make, forward = LAYERS[name]
    torch.manual_seed(0)
    model = gated(Patched(make(), forward), IMAGES, gate_init=0.0, gate_init_std=1.0).eval()
    for branch in model.branches.values():
        scramble(branch)
    assert verify(model, prune(model)).passed


def test_a_forward_that_reads_the_mode_still_follows_it() -> None:
    def noisy(self: nn.Module, x: Tensor) -> Tensor:
        return x + 1 if self.training else x

    network = traced(Patched(nn.Identity(), noisy), IMAGES)
    assert not torch.equal(network.train()(IMAGES), network.eval()(IMAGES))


def test_a_forward_that_holds_the_original_module_is_refused() -> None:
    module = Patched(nn.Conv2d(8, 8, 1), convolution)
    original = module.last.forward
    module.last.forward = lambda x: 2 * original(x)
    with pytest.raises(TraceError, match=r"forward of 'last' in the network was replaced .* types.MethodType"):
        traced(module, IMAGES)
