"""Torch's NumPy names are recorded under torch's own, so that every rule reads one form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.prune import prune
from gate2static.verify import verify
from tests.program.tracing import gated, scramble, traced


class Twice(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.LazyConv2d(3, 1)
        self.function = function
        self(torch.randn(2, 3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self.second(x)))


CALLS = {
    "cat axis=3": lambda a, b: torch.cat([a, b], axis=3),
    "concatenate": lambda a, b: torch.concatenate([a, b], axis=1),
    "concat": lambda a, b: torch.concat(tensors=[a, b], axis=-1),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "vstack": lambda a, b: torch.vstack([a, b])[: a.shape[0]],
    "dstack": lambda a, b: torch.dstack((a, b)),
    "stack": lambda a, b: torch.stack([a, b], axis=2).flatten(1, 2),
    "sum": lambda a, b: torch.sum(a, axis=1, keepdims=True) * b.mean(axis=(2, 3), keepdims=True),
    "max": lambda a, b: a + b.max(axis=1, keepdims=True).values,
    "softmax": lambda a, b: a.softmax(axis=1) + torch.special.softmax(b, axis=2),
    "split": lambda a, b: a.chunk(2, axis=1)[0] + torch.unbind(b, axis=1)[0].unsqueeze(axis=1),
    "arithmetic": lambda a, b: torch.multiply(a, b).subtract(a).divide(torch.absolute(b) + 1).true_divide(2).negative(),
    "in place": lambda a, b: (a * 2).multiply_(b).clip_(-1, 1),
    "named operands": lambda a, b: torch.add(x1=a, x2=b),
    "swapaxes": lambda a, b: a.swapaxes(2, 3) + torch.swapaxes(b, axis0=2, axis1=3),
    "moveaxis": lambda a, b: a.moveaxis(1, -1).moveaxis(-1, 1) + b,
    "true names": lambda a, b: torch.cdist(x1=a, x2=b) + torch.trapezoid(a, x=b, dim=1).unsqueeze(1),
}
NUMPYS = {"axis", "keepdims", "axis0", "x1", "concatenate", "concat", "hstack", "multiply", "multiply_", "clip_"}


@pytest.mark.parametrize("name", CALLS)
def test_numpy_names_prune_like_torchs(name: str) -> None:
    x = torch.randn(2, 3, 4, 4)
    module = scramble(Twice(CALLS[name])).eval()
    network = traced(module, x)
    torch.testing.assert_close(network(x), module(x))
    if name != "true names":
        used = {str(getattr(n.target, "__name__", n.target)) for n in network.graph.nodes}
        assert not NUMPYS & (used | {key for n in network.graph.nodes for key in n.kwargs})
    torch.manual_seed(0)
    model = gated(module, x, gate_init=0.0, gate_init_std=1.0).eval()
    for branch in model.branches.values():
        scramble(branch)  # streams that compute the same would hide a wrong layout
    assert verify(model, prune(model)).passed
