"""Shuffles and gated linear units are written out as steps, for any batch and any image."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.gates import composite

from .tracing import called, gated, traced


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
