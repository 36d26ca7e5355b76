"""Rectifiers write in place where nobody else reads what they write into."""

import pytest
import torch
from torch import Tensor, fx, nn

from gate2static.gates import gate
from gate2static.gates.settled.rectifiers import rectify_in_place


class Net(nn.Module):
    def __init__(self, readers: int, rectifier: nn.Module) -> None:
        super().__init__()
        self.first, self.last, self.readers, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), readers, rectifier

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.last(self.relu(y))
        return torch.relu(z + y) if self.readers > 1 else torch.relu(z).mean((2, 3), keepdim=True)


def in_place(network: fx.GraphModule) -> int:
    return sum(node.target is torch.relu_ for node in network.graph.nodes)


class Rectifier(nn.ReLU):
    """Might do something else."""


@pytest.mark.parametrize(
    ("readers", "rectifier", "expected"),
    [(1, nn.ReLU(), 6), (1, nn.ReLU(inplace=True), 6), (2, nn.ReLU(), 3), (1, Rectifier(), 3)],
)
def test_rectifiers_write_into_what_only_they_read(readers: int, rectifier: nn.Module, expected: int) -> None:
    backbone, x = Net(readers, rectifier), torch.randn(2, 3, 5, 5)
    heads = {"a": nn.Flatten(), "b": nn.Flatten()}
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(x,), heads=heads).train()
    assert in_place(gated.encoder) == 0
    rectify_in_place(gated.encoder)
    assert in_place(gated.encoder) == expected
    found = gated(x)
    assert torch.allclose(found["b"], backbone(x).flatten(1), atol=1e-6)
    sum(y.square().sum() for y in found.values()).backward()


def test_what_hooks_may_hold_on_to_is_not_written_over() -> None:
    backbone, x = Net(1, nn.ReLU()), torch.randn(2, 3, 5, 5)
    gated = gate(backbone, tasks=["a"], example_inputs=(x,), heads={"a": nn.Flatten()}).train()
    kept: list[Tensor] = []
    gated.gates["first"].register_forward_hook(lambda module, inputs, outputs: kept.extend(outputs))
    rectify_in_place(gated.encoder)
    gated(x)
    assert any((stream < 0).any() for stream in kept)
