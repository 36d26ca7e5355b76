"""What wraps a gated network for training is looked through; what only holds one somewhere is told what to pass."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import gate2static as g2s
from gate2static.errors import Gate2StaticError


@cache
def gated() -> g2s.GatedModel:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 2, 1)}
    return g2s.gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)


def network() -> g2s.GatedModel:
    return copy.deepcopy(gated())


class Lit(nn.Module):
    """A module with the network inside, as Lightning's are."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


CALLS: dict[str, Callable[[Any, Path], object]] = {
    "prune": lambda model, _: g2s.prune(model),
    "verify": lambda model, _: g2s.verify(model, g2s.prune(model)),
    "sparsity_hinge": lambda model, _: g2s.sparsity_hinge(model, targets={"a": 0.5, "b": 0.5}),
    "expected_macs": lambda model, _: g2s.expected_macs(model),
    "gate_decisions": lambda model, _: g2s.gate_decisions(model),
    "set_gates": lambda model, _: g2s.set_gates(model, True),
    "project_to_budget": lambda model, _: g2s.project_to_budget(model, g2s.Budget(macs=0.99), progress=False),
    "freeze_gates": lambda model, _: g2s.freeze_gates(model),
    "GateSettling": lambda model, _: g2s.GateSettling(model, after_steps=1).step(),
    "with_groups": lambda model, _: g2s.with_groups(model, 2),
    "optimisers": lambda model, _: g2s.optimisers(model, lr=0.1, steps=10),
    "save_checkpoint": lambda model, path: g2s.save_checkpoint(model, path / "own.pt", model="nets:build"),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrappers_for_training_are_looked_through(name: str, tmp_path: Path) -> None:
    for wrap in (nn.DataParallel, AveragedModel, lambda gated: AveragedModel(nn.DataParallel(gated))):
        CALLS[name](wrap(network()), tmp_path)


@pytest.mark.parametrize("name", CALLS)
def test_a_module_that_holds_the_network_names_what_to_pass(name: str, tmp_path: Path) -> None:
    for wrapper, path in ((Lit(network()), "net"), (AveragedModel(Lit(network())), "module.net")):
        with pytest.raises(Gate2StaticError, match=rf"allowed is a GatedModel: pass its `\.{path}`"):
            CALLS[name](wrapper, tmp_path)
