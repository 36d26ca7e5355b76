"""Operators without a rule are named with what they cost."""


import pytest
import torch
from torch import Tensor, nn

from gate2static.gates import gate, set_gates
from gate2static.prune import barrier_costs, prune
from gate2static.report import barrier_table
from tests import zoo


class PadsChannels(nn.Module):
    """A shortcut as those of CIFAR's ResNets, with channels of nought before and behind."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.down, self.value = nn.Conv2d(8, 8, 3, padding=1), value

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x[:, :5], (0, 0, 0, 0, 1, 2), value=self.value)
        return self.down(x) + padded


class Product(nn.Module):
    """A user's layer that multiplies, and that nothing knows; it reads `training`, so it stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensordot(x, self.weight * (2 if self.training else 1), ([1], [0])).movedim(-1, 1)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.second = nn.Conv2d(3, 4, 1), Product(), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.mix(torch.relu(self.first(x)).sort(1).values))


def test_a_barrier_costs_its_own_macs_and_those_that_only_it_reads() -> None:
    backbone, x = Mixed().eval(), torch.randn(2, 3, 8, 8)
    heads = {"a": nn.Conv2d(5, 1, 1), "b": nn.Conv2d(5, 1, 1)}
    gated = zoo.randomise(gate(backbone, tasks=["a", "b"], example_inputs=(x,), heads=heads))
    set_gates(gated, False)
    decided = zoo.planned(gated)
    costs = {cost.operator: cost for cost in barrier_costs(decided)}
    assert set(costs) == {"Product", "sort"}
    assert (costs["Product"].macs, costs["Product"].behind) == (4 * 4 * 64, 3 * 4 * 64)
    assert (costs["sort"].macs, costs["sort"].behind) == (0, 3 * 4 * 64)
    assert set(prune(gated).manifest.barriers.values()) == {4 * 4 * 64, 0}
    cells = [list(column.cells) for column in barrier_table(list(costs.values())).columns]
    assert cells[0] == ["Product", "sort"]
    assert cells[2] == ["1,024", "0"]


BETWEEN = {
    "synchronised batch norm": nn.SyncBatchNorm(8),
    "grouped transposed convolution with a bias": nn.ConvTranspose2d(8, 8, 2, 2, groups=4),
    "depth-wise transposed convolution with a bias": nn.ConvTranspose2d(8, 8, 2, 2, groups=8),
    "circular padding": nn.CircularPad2d(1),
    "random leaky rectifier": nn.RReLU(),
    "padding of channels": PadsChannels(0.0),
    "padding of channels with a number": PadsChannels(0.5),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_usual_layers_have_a_rule(between: nn.Module) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 1), between, nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()
    x, heads = torch.randn(2, 3, 8, 8), {task: nn.Conv2d(5, 1, 1) for task in ("a", "b")}
    gated = zoo.randomise(gate(backbone, tasks=["a", "b"], example_inputs=(x,), heads=heads))
    assert prune(gated).manifest.barriers == {}
    zoo.check_exact(gated.double(), x.double())


def test_a_network_with_a_rule_for_everything_has_no_barriers() -> None:
    gated, _ = zoo.make_gated("token_rules")
    assert barrier_costs(zoo.planned(gated)) == []
    assert prune(gated).manifest.barriers == {}
