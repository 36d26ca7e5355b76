"""Hooks that a trace would lose are refused; those that it records or that layers keep are not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import TraceError
from tests.program.tracing import gated

IMAGES = torch.randn(2, 3, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(x))


def nothing(*_: Any) -> None:
    """Observes."""


def doubled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * 2


LOST: dict[str, tuple[str, Callable[[Net], object]]] = {
    "observer": ("'block' in the backbone has a hook", lambda n: n.block.register_forward_hook(nothing)),
    "before": ("'block' in the backbone has a hook", lambda n: n.block.register_forward_pre_hook(nothing)),
    "backward": ("'block' in the backbone has a hook", lambda n: n.block.register_full_backward_hook(nothing)),
    "root": ("the backbone has a hook", lambda n: n.register_forward_hook(doubled)),
    "gradient": ("the parameter 'last.weight' of the backbone", lambda n: n.last.weight.register_hook(lambda g: g * 0)),
    "accumulated": (
        "the parameter 'last.weight' of the backbone",
        lambda n: n.last.weight.register_post_accumulate_grad_hook(nothing),
    ),
}


@pytest.mark.parametrize(("message", "add"), LOST.values(), ids=LOST)
def test_a_hook_that_would_be_lost_is_refused(message: str, add: Callable[[Net], object]) -> None:
    """Hooks on what is taken apart, and on parameters, used to vanish in silence."""
    network = Net()
    add(network)
    with pytest.raises(TraceError, match=message):
        gated(network, IMAGES)


def test_a_hook_that_changes_a_value_is_recorded_and_layers_keep_theirs() -> None:
    network = Net().eval()
    calls: list[int] = []
    network.block.register_forward_hook(doubled)
    network.last.register_forward_hook(lambda *_: calls.append(1))
    model = gated(network, IMAGES)
    calls.clear()
    features = model.encoder(IMAGES)[0]
    assert len(calls) == 3
    torch.testing.assert_close(features, network(IMAGES))
