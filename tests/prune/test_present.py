"""A gated model whose modules were replaced: heads are traced again, other modules are refused by name."""

import copy

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import PruneError
from gate2static.verify import verify


class Head(nn.Module):
    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 2, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features) * self.scale


class Squashed(Head):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).sigmoid()


def gated_network() -> g2s.GatedModel:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3))
    heads = {"a": Head(), "b": Head()}
    gated = g2s.gate(backbone, tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 9, 9),), heads=heads).eval()
    g2s.set_gates(gated, {name: torch.rand_like(gate.alpha) < 0.5 for name, gate in gated.gates.items()})
    return gated


def assert_pruned(gated: g2s.GatedModel) -> None:
    static = g2s.prune(gated)
    assert verify(gated, static).passed
    assert static.manifest.macs.static == int(g2s.expected_macs(gated))


def test_a_replaced_head_is_pruned_as_it_is_now(tmp_path) -> None:
    """Pruning and export used to take the head that was traced, which the report did not say."""
    gated = gated_network()
    gated.heads["a"] = Squashed()
    assert_pruned(gated)
    x = torch.randn(1, 3, 9, 9)
    static = g2s.prune(gated)
    assert torch.allclose(static(x)["a"], gated(x)["a"], atol=1e-6)
    assert max(g2s.export_onnx(static, tmp_path / "network.onnx").errors.values()) < 1e-5


def test_a_head_with_another_setting_is_pruned_with_it() -> None:
    gated = gated_network()
    gated.heads["b"].scale = 3.0
    assert_pruned(gated)
    other = copy.deepcopy(gated)
    other.heads["b"].scale = 5.0
    assert not verify(other, g2s.prune(gated)).passed


def test_a_wider_head_costs_what_it_has() -> None:
    gated = gated_network()
    before = int(g2s.expected_macs(gated))
    gated.heads["a"] = nn.Sequential(nn.Conv2d(6, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 2, 1))
    assert int(g2s.expected_macs(gated)) > before
    assert_pruned(gated)


@pytest.mark.parametrize("replacement", [nn.Sigmoid(), nn.LeakyReLU(0.3)])
def test_a_replaced_layer_of_a_branch_is_refused_by_name(replacement: nn.Module) -> None:
    """Pruning used to take the first branch's layer for all streams."""
    gated = gated_network()
    gated.branches["b"].add_module("2", replacement)
    with pytest.raises(PruneError, match=rf"the layer '2' in the branch 'b' .* a {type(replacement).__name__}"):
        g2s.prune(gated)


def test_a_layer_with_another_stride_is_refused() -> None:
    gated = gated_network()
    gated.branches["a"].get_submodule("3").stride = (2, 2)
    with pytest.raises(PruneError, match="the layer '3' in the branch 'a'"):
        g2s.prune(gated)


def test_a_replaced_gate_is_refused() -> None:
    gated = gated_network()
    unit = next(iter(gated.gates))
    gated.encoder.gates.add_module(unit, nn.Identity())
    with pytest.raises(PruneError, match=f"the gate of '{unit}' was replaced by a Identity"):
        g2s.prune(gated)


def test_what_changes_nothing_when_deployed_is_allowed() -> None:
    gated = gated_network()
    for module in gated.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert_pruned(gated.train().eval())
    assert_pruned(nn.SyncBatchNorm.convert_sync_batchnorm(gated))


def test_a_copy_in_double_precision_is_pruned_without_tracing_again() -> None:
    gated = copy.deepcopy(gated_network()).double()
    assert_pruned(gated)
