"""A branch refuses to have attributes set that only the traced code would have read."""

import copy

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import GateError
from tests.program.tracing import gated

IMAGES = torch.randn(2, 3, 4, 4)


class Inner(nn.Module):
    scale = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.temperature = nn.Conv2d(3, 4, 1), 1.0
        self.shift: Tensor
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale / self.temperature + self.shift


@pytest.mark.parametrize("name", ["temperature", "scale"])
def test_an_attribute_that_the_trace_fixed_cannot_be_set(name: str) -> None:
    """To set a temperature later used to change nothing, in silence."""
    model = copy.deepcopy(gated(nn.Sequential(Inner(), nn.Conv2d(4, 2, 1)), IMAGES))
    for branch in model.branches.values():
        with pytest.raises(GateError, match=f"'{name}' of '0' was fixed when the backbone was traced"):
            setattr(branch.get_submodule("0"), name, 4.0)


def test_buffers_layers_and_new_attributes_can_be_set() -> None:
    model = gated(nn.Sequential(Inner(), nn.Conv2d(4, 2, 1)), IMAGES).eval()
    before = model(IMAGES)["a"]
    for branch in model.branches.values():
        inner = branch.get_submodule("0")
        inner.get_buffer("shift").fill_(3.0)
        inner.conv = inner.conv
        inner.note = "new"  # type: ignore[assignment]  # no tensor
    assert not torch.equal(model(IMAGES)["a"], before)
