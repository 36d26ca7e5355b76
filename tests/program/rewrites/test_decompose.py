"""Shuffles and gated linear units are written out as steps, for any batch and any image."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.program.rewrites import decompose as composite
from tests.program.tracing import called, gated, traced


class Call(nn.Module):
    def __init__(self, function: Any, *args: Any) -> None:
        super().__init__()
        self.conv, self.function, self.args = nn.Conv2d(3, 16, 1), function, args

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x), *self.args)


CALLS = {
    "pixel_shuffle": (F.pixel_shuffle, 2),
    "pixel_unshuffle": (F.pixel_unshuffle, 3),
    "channel_shuffle": (F.channel_shuffle, 4),
    "glu": (F.glu, 1),
    "glu along the rows": (F.glu, -2),
    "PixelShuffle": (nn.PixelShuffle(4),),
    "PixelUnshuffle": (nn.PixelUnshuffle(2),),
    "ChannelShuffle": (nn.ChannelShuffle(2),),
    "GLU": (nn.GLU(1),),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_steps_compute_the_same_for_any_batch_and_image(call: tuple[Any, ...]) -> None:
    module = Call(*call)
    network = traced(module, torch.randn(2, 3, 6, 12))
    known = {"conv", "reshape", "permute", "transpose", "narrow", "sigmoid", "mul", "size", "floordiv"}
    assert set(called(network)) <= known
    rows = 6 if call[1:] == (-2,) else 18
    for x in (torch.randn(2, 3, 6, 12), torch.randn(5, 3, rows, 6)):
        assert torch.equal(network(x), module(x))


def test_wrong_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(shape: tuple[int, ...], x: Any, groups: int) -> Any:
        return x.reshape(-1, shape[1] // groups, groups, *shape[2:]).transpose(1, 2).reshape(-1, *shape[1:])

    monkeypatch.setitem(composite.STEPS, F.channel_shuffle, swapped)
    with pytest.raises(TraceError, match="does not compute what the backbone computes"):
        gated(Call(F.channel_shuffle, 2), torch.randn(2, 3, 6, 6))


class Einsum(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.conv, self.equation = nn.Conv2d(3, 16, 1), equation

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).unflatten(1, (4, 4)).flatten(3).split(2, 1)
        return torch.einsum(self.equation, a, b.roll(1, 2))


PRODUCTS = ["b h i d, b h j d -> b h i j", "bhid,bhij->bhjd", "bhdi,bhdj->bhij", "bhdi,bhdj->bjih", "bhid,bhjd->bijh"]
OTHERS = ["bhid,bhid->bhi", "bhid,bhjd->hij", "bhid,bhij->bjd", "bhid,bkid->bhk"]


@pytest.mark.parametrize("equation", PRODUCTS + OTHERS)
def test_an_einsum_over_one_letter_is_a_product_of_matrices(equation: str) -> None:
    module = Einsum(equation).eval()
    x = torch.randn(2, 3, 4, 4)
    network = traced(module, x)
    assert torch.allclose(network(x), module(x), atol=1e-6)
    assert ("matmul" in called(network)) == (equation in PRODUCTS) == ("einsum" not in called(network))
