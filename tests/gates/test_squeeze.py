"""`squeeze()` without a dimension removes the batch of a single sample, which a static network never does."""

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import GateError
from gate2static.verify import verify


class Squeezes(nn.Module):
    def __init__(self, function: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.linear = nn.Linear(6, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3), keepdim=True)
        return self.linear(torch.squeeze(y) if self.function else y.squeeze())


@pytest.mark.parametrize("function", [True, False])
def test_gated_and_static_keep_the_batch_of_one_sample(function: bool) -> None:
    """The two used to differ in shape for one sample."""
    torch.manual_seed(0)
    heads = {"a": nn.Linear(8, 2), "b": nn.Linear(8, 2)}
    x = torch.randn(2, 3, 8, 8)
    gated = g2s.gate(Squeezes(function).eval(), tasks=["a", "b"], example_inputs=(x,), heads=heads).eval()
    static = g2s.prune(gated)
    assert verify(gated, static).passed
    assert gated(x[:1])["a"].shape == static(x[:1])["a"].shape == (1, 2)


class SqueezingHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features).squeeze()


def test_a_head_that_does_so_is_refused() -> None:
    heads = {"a": SqueezingHead()}
    with pytest.raises(GateError, match=r"head of task 'a' returns \(2,\) for 2 samples and \(\) for one"):
        g2s.gate(Squeezes(True), tasks=["a"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)
