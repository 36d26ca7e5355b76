"""What the tests of backbones and decoders share."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gate2static as g2s


def giga_macs(network: nn.Module, *inputs: object) -> float:
    """GMACs of one call; under torch's meta device it computes nothing."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return counter.get_total_flops() / 2e9


def assert_prunes_exactly(
    backbone: nn.Module, make_head: Callable[[Sequence[torch.Size], int], nn.Module], size: tuple[int, int]
) -> None:
    """Gates a backbone with random statistics for two maps, prunes it, and compares the two."""
    for module in (backbone, *backbone.modules()):
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        shapes = [features.shape for features in backbone.eval()(images)]
    heads = {"seg": make_head(shapes, 4), "depth": make_head(shapes, 1)}
    gated = g2s.gate(backbone, tasks=["seg", "depth"], example_inputs=(images,), heads=heads).eval()
    assert 0.1 < sum(float(d.float().mean()) for d in g2s.gate_decisions(gated).values()) / len(gated.gates) < 0.95
    static = g2s.prune(gated)
    outputs = static(images)
    assert {name: tuple(o.shape) for name, o in outputs.items()} == {"seg": (2, 4, *size), "depth": (2, 1, *size)}
    assert int(g2s.expected_macs(gated)) == static.manifest.macs.static
    g2s.verify(gated, static).require()
    # What pruning reads and emits by channels, not as opaque calls.
    assert not {name: macs for name, macs in static.manifest.barriers.items() if macs}


@pytest.fixture(scope="session")
def nets() -> SimpleNamespace:
    """What the tests of this folder share."""
    return SimpleNamespace(giga_macs=giga_macs, assert_prunes_exactly=assert_prunes_exactly)
