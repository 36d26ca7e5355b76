"""Layouts change how a network is laid out, never what it computes or its MACs."""

from dataclasses import replace
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from gate2static.cli.arguments import Target
from gate2static.errors import PruneError
from gate2static.gates import GatedModel, gate
from gate2static.prune import TARGETS, expected_macs, plan, prune
from gate2static.prune.emission.arrangement import Arrangement
from gate2static.prune.emission.layout import LAYOUT, PLAIN
from gate2static.prune.emit import emit, layer_blocks
from gate2static.static.aten import annotate
from gate2static.static.capturing.capture import capture
from gate2static.static.deploy.traffic_cost import MACS_PER_NUMBER, NUMBERS_PER_START, traffic_cost
from tests import zoo

pytestmark = pytest.mark.slow

LAYOUTS = {
    "plain": PLAIN,
    "streams put together": replace(LAYOUT, share_work=False),
    "no blocks": replace(LAYOUT, block_channels=0),
    "blocks of any width": replace(LAYOUT, block_channels=1),
    "blocks of four": replace(LAYOUT, block_channels=4),
    "convolved": replace(LAYOUT, convolve_moves=True),
    "convolved, blocks of any width": replace(LAYOUT, convolve_moves=True, block_channels=1),
}
_COPIES = ("slice", "narrow", "index_select", "split")


def _copies(static: Any) -> int:
    return sum(any(c in str(n.target) for c in _COPIES) for n in static.network.graph.nodes)


_LAYOUTS = [*((name, "softmax") for name in LAYOUTS), ("plain", "hard"), ("blocks of any width", "hard")]


@cache
def _gated(network: str, mixing: str) -> tuple[GatedModel, torch.Tensor]:
    """A network that layouts are tried on; not to be changed."""
    gated, x = zoo.make_gated(network, tasks=2, p=0.3, group_size=4, mixing=mixing)
    return gated.double(), x.double()


@pytest.mark.parametrize("network", ["resnet12", "many_rules", "token_rules"])
@pytest.mark.parametrize(("name", "mixing"), _LAYOUTS)
def test_every_layout_keeps_function_and_macs(name: str, network: str, mixing: str) -> None:
    gated, x = _gated(network, mixing)
    zoo.check_exact(gated, x, LAYOUTS[name])


@pytest.mark.parametrize(("name", "mixing"), _LAYOUTS)
def test_every_layout_is_pruned_to_what_was_planned(name: str, mixing: str) -> None:
    gated, x = _gated("many_rules", mixing)
    static = prune(gated, target=LAYOUTS[name])
    with torch.no_grad():
        expected, found = gated(x), static(x)
    assert zoo.relative_error(expected.values(), found.values()) <= 1e-9
    assert int(expected_macs(gated)) == static.manifest.macs.static == zoo.counted_macs(static, (x,))


class _Residual(nn.Module):
    """A depth-wise layer on a stream of which three tasks share some channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dense = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.dense(x)
        return (x + self.depthwise(x)).mean((2, 3))


@pytest.mark.parametrize("seed", range(4))
def test_shared_channels_run_once_through_layers_of_single_channels(seed: int) -> None:
    torch.manual_seed(seed)
    tasks, x = ["a", "b", "c"], torch.randn(2, 3, 8, 8)
    heads = {task: nn.Linear(24, 5) for task in tasks}
    gated = gate(_Residual().eval(), tasks=tasks, example_inputs=(x,), heads=heads, group_size=8)
    zoo.randomise(gated, 0.5)
    for how in (LAYOUT, PLAIN):
        static = prune(gated, target=how)
        assert int(expected_macs(gated)) == static.manifest.macs.static == zoo.counted_macs(static, (x,))


def test_blocks_are_read_whole_and_never_cut() -> None:
    gated, _ = zoo.make_gated("resnet12", tasks=3, p=0.3, group_size=4)
    assert _copies(prune(gated, target=replace(LAYOUT, block_channels=1))) == 0
    assert _copies(prune(gated, target=replace(LAYOUT, block_channels=0))) > 10


def test_layers_are_cut_only_where_blocks_are_wide_enough() -> None:
    gated, _ = zoo.make_gated("resnet12", tasks=3, p=0.3, group_size=4)
    cut = [len(layer_blocks(zoo.planned(gated), width)) for width in (1, 6, 10**6)]
    assert cut[0] > cut[1] > cut[2] == 0


class _Tokens(nn.Module):
    """Two residual layers on tokens (N, L, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.second(x.relu())
        return (x + self.third(x.relu())).mean(1)


@pytest.mark.parametrize("group_size", [8, 16])
def test_channels_of_tokens_are_gathered_in_the_groups_of_the_gates(group_size: int) -> None:
    torch.manual_seed(0)
    tasks, x = ["a", "b", "c"], torch.randn(2, 5, 12)
    heads = {task: nn.Linear(64, 3) for task in tasks}
    gated = gate(_Tokens().eval(), tasks=tasks, example_inputs=(x,), heads=heads, group_size=group_size)
    zoo.randomise(gated, 0.5)
    for how in (LAYOUT, PLAIN):
        nodes = list(prune(gated, target=how).network.graph.nodes)
        gathers = [n for n in nodes if "index_select" in str(n.target) and n.args[1] == 2]  # 1 is behind the mean
        widths = [n.args[0].args[2][-1] for n in gathers]
        assert widths
        assert all(width % group_size == 0 for width in widths)


def test_a_block_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gated, _ = zoo.make_gated("resnet12", tasks=2, p=0.3, group_size=4)
    right = Arrangement.in_blocks

    def all_but_the_last(self: Any, rule: Any, ids: Any) -> Any:
        found = right(self, rule, ids)
        return found[:-1] or found

    monkeypatch.setattr(Arrangement, "in_blocks", all_but_the_last)
    with pytest.raises(PruneError, match="is read and was not computed"):
        prune(gated, target=replace(LAYOUT, block_channels=1))


def test_streams_that_read_the_same_run_as_one_layer_unless_moves_become_convolutions() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3, p=0.3)
    merged, apart = (emit(zoo.planned(gated), how) for how in (LAYOUT, replace(PLAIN, convolve_moves=True)))
    layers = [sum(isinstance(m, nn.Conv2d) for m in network.modules()) for network in (merged, apart)]
    assert layers[0] < layers[1]


def test_targets_are_those_of_the_command() -> None:
    assert set(get_args(Target)) == set(TARGETS)


def test_alignments_of_the_caller_and_of_the_target_both_hold() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2, p=0.3)
    filled = plan(gated, align=3, target="trt").channels.live
    expected = zoo.planned(gated, align=24).live
    assert all(np.array_equal(filled[node], ids) for node, ids in expected.items())


def test_an_unknown_target_is_refused() -> None:
    gated, _ = zoo.make_gated("resnet12", tasks=2, p=0.3)
    with pytest.raises(PruneError, match="unknown target 'tpu'; allowed: any, ort-cpu, openvino, trt"):
        prune(gated, target="tpu")


@pytest.mark.parametrize("block_channels", [0, 1])
def test_aligned_layers_are_computed_whole(block_channels: int) -> None:
    gated, x = zoo.make_gated("resnet12", tasks=2, p=0.3, mixing="hard")
    static = prune(gated, align=8, target=replace(LAYOUT, block_channels=block_channels))
    assert zoo.counted_macs(static, (x,)) == static.manifest.macs.static > int(expected_macs(gated))
    weights = [n.args[1].target for n in static.network.graph.nodes if "conv2d" in str(n.target)]
    assert all(static.network.get_parameter(w).shape[0] % 8 == 0 for w in weights)


@pytest.mark.parametrize(
    ("target", "width", "mixing", "winner"),
    [("openvino", 8, "hard", 0), ("openvino", 4, "softmax", 1), ("ort-cpu", 8, "hard", 2)],
)
def test_the_least_traffic_decides_between_the_layouts_of_a_target(
    target: str, width: int, mixing: str, winner: int
) -> None:
    gated, x = zoo.make_gated("resnet12", tasks=2, p=0.5, group_size=width, mixing=mixing)
    tried = [prune(gated, target=how) for how in TARGETS[target].layouts]
    costs = [_traffic(static.deployed().network, x) for static in tried]
    assert len(set(costs)) == len(costs)
    assert np.argmin(costs) == winner
    assert prune(gated, target=target).manifest.digest == tried[winner].manifest.digest


def _cost(*layers: nn.Module) -> float:
    x = torch.randn(2, 16, 8, 8)
    return _traffic(capture(_Tuple(*layers).eval(), (x,)), x)


def _traffic(network: torch.fx.GraphModule, x: torch.Tensor) -> float:
    annotate(network, (x,))
    return traffic_cost(network)


def test_the_cost_of_a_network_without_shapes_is_refused() -> None:
    x = torch.randn(2, 16, 8, 8)
    network = capture(_Tuple(nn.Conv2d(16, 16, 1)).eval(), (x,))
    annotate(network, (x,))
    for node in list(network.graph.nodes)[:-1]:
        shape = node.meta.pop("tensor_meta")
        with pytest.raises(ValueError, match=f"the shape of {node} is not known; annotate the network"):
            traffic_cost(network)
        node.meta["tensor_meta"] = shape


class _Tuple(nn.Sequential):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:  # type: ignore[override]
        return (super().forward(x),)


class _Slice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.narrow(1, 0, 16)


def test_what_is_fused_with_a_layer_moves_nothing() -> None:
    conv, relu = nn.Conv2d(16, 32, 1), nn.ReLU()
    layer = 32 * 64 * 16 / MACS_PER_NUMBER
    assert _cost(conv) == _cost(conv, relu) == layer
    assert _cost(conv, relu, nn.MaxPool2d(2)) == layer + NUMBERS_PER_START + 32 * (64 + 16)
    assert _cost(relu, conv) == NUMBERS_PER_START + 2 * 16 * 64 + 2 * 16 * 64 + layer  # in plain layout, so reordered


def test_leaving_a_layers_blocks_costs_a_reordering() -> None:
    wide, conv = nn.Conv2d(16, 32, 1), nn.Conv2d(16, 16, 1)
    layers = 2 * 32 * 64 * 16 / MACS_PER_NUMBER * 3 / 4
    assert _cost(wide, _Slice(), conv) == layers + NUMBERS_PER_START + (32 + 16) * 64 + 2 * (32 + 16) * 64
