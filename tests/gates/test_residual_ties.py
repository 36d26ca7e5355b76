"""Which units write to the same residual stream, and what it means that they share their gates."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import GateError
from gate2static.gates import GatedModel, gate, gate_decisions, gate_parameters, set_gates, sparsity_hinge
from gate2static.gates.residual_ties import residual_ties
from gate2static.program.program import build_program


def ties(backbone: nn.Module, *shape: int) -> list[set[str]]:
    root, program = build_program(backbone.eval(), {"a": nn.Identity()}, (torch.randn(2, *shape),))
    return [set(group) for group in residual_ties(root, program)]


@pytest.mark.parametrize(("model", "last"), [("resnet18", "conv2"), ("resnet50", "conv3")])
def test_the_writers_of_each_stage_of_a_resnet_are_tied(model: str, last: str) -> None:
    network = getattr(torchvision.models, model)(num_classes=4)
    expected = []
    for stage in range(1, 5):
        blocks = len(getattr(network, f"layer{stage}"))
        writers = {f"layer{stage}_{block}_{last}" for block in range(blocks)}
        first = "conv1" if (model, stage) == ("resnet18", 1) else f"layer{stage}_0_downsample_0"
        expected.append(writers | {first})
    assert ties(network, 3, 32, 32) == expected


@pytest.mark.parametrize("scales", [None, 1e-4])
def test_the_writers_of_a_transformers_stream_are_tied_but_not_its_projections(scales: float | None) -> None:
    network = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, init_values=scales, drop_path_rate=0.1)
    writers = {f"blocks_{block}_{layer}" for block in (0, 1) for layer in ("attn_proj", "mlp_fc2")}
    assert ties(network, 3, 32, 32) == [writers | {"patch_embed_proj"}]


def test_windows_and_rolls_do_not_hide_the_stream() -> None:
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(2, 1), num_heads=(3, 6), embed_dim=24
    )
    first = {f"layers_0_blocks_{block}_{layer}" for block in (0, 1) for layer in ("attn_proj", "mlp_fc2")}
    second = {"layers_1_downsample_reduction", "layers_1_blocks_0_attn_proj", "layers_1_blocks_0_mlp_fc2"}
    assert ties(network, 3, 32, 32) == [first | {"patch_embed_proj"}, second]


def test_squeeze_and_excitation_ties_nothing() -> None:
    found = ties(torchvision.models.mobilenet_v3_small(num_classes=4), 3, 64, 64)
    blocks = [(2, 3), (4, 5, 6), (7, 8), (9, 10, 11)]
    assert found == [{f"features_{b}_block_{2 if b < 4 else 3}_0" for b in group} for group in blocks]


def test_concatenation_of_channels_ties_nothing() -> None:
    assert ties(torchvision.models.DenseNet(8, (2, 2), 16, num_classes=4), 3, 32, 32) == []


class Two(nn.Module):
    """Two layers with six channels each, and what becomes of them."""

    def __init__(self, join: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)
        self.norm, self.act, self.linear = nn.BatchNorm2d(6), nn.PReLU(6), nn.Linear(6, 6)
        self.drop, self.depth = nn.Dropout(0.1), torchvision.ops.StochasticDepth(0.1, "row")
        self.gamma, self.table = nn.Parameter(torch.ones(6, 1, 1)), nn.Parameter(torch.randn(6, 6))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, self.first(x), self.second(x))


TIED: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "sum": lambda net, a, b: a + b,
    "difference": lambda net, a, b: torch.sub(a, b),
    "in_place": lambda net, a, b: a.mul(2).add_(b),
    "norm": lambda net, a, b: net.third(net.norm(F.relu(a)) + b),
    "activation": lambda net, a, b: net.third(net.act(a) + F.gelu(b)),
    "pooling": lambda net, a, b: F.max_pool2d(a, 2) + F.avg_pool2d(b, 2),
    "resizing": lambda net, a, b: F.interpolate(F.max_pool2d(a, 2), scale_factor=2) + b,
    "dropout": lambda net, a, b: net.depth(net.drop(a)) + b,
    "scale": lambda net, a, b: net.third(net.gamma * a + b),
    "excited": lambda net, a, b: a * a.mean((2, 3), keepdim=True).sigmoid() + b,
    "moved": lambda net, a, b: a.flatten(2).transpose(1, 2) + b.permute(0, 2, 3, 1).reshape(-1, 36, 6),
    "cropped": lambda net, a, b: a[:, :, 1:] + b[:, :, :-1],
    "broadcast": lambda net, a, b: a + b.mean((2, 3), keepdim=True),
    "later": lambda net, a, b: torch.cat([a, b], 2) + torch.cat([b, a], 3).transpose(2, 3),
}
APART: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "product": lambda net, a, b: a * b,
    "excitation": lambda net, a, b: a * b.mean((2, 3), keepdim=True),
    "concatenation": lambda net, a, b: torch.cat([a, b], 1),
    "weights_between": lambda net, a, b: net.third(a) + net.third(b) * 0,
    "other_dimension": lambda net, a, b: a + b.transpose(1, 2),
    "other_order": lambda net, a, b: a + b.flip(1),
    "some_channels": lambda net, a, b: a[:, :3] + b[:, 3:],
    "mixed_channels": lambda net, a, b: net.third(a + (b.transpose(1, 3) @ net.table).transpose(1, 3)),
    "matrix_product": lambda net, a, b: a + a.softmax(-1) @ b,
}


@pytest.mark.parametrize("name", TIED)
def test_channels_that_are_added_are_tied(name: str) -> None:
    assert ties(Two(TIED[name]), 3, 6, 6) == [{"first", "second"}]


@pytest.mark.parametrize("name", APART)
def test_channels_that_are_not_added_are_not_tied(name: str) -> None:
    assert not any({"first", "second"} <= group for group in ties(Two(APART[name]), 3, 6, 6))


def test_ties_are_transitive() -> None:
    found = ties(Two(lambda net, a, b: a + net.third(a + b)), 3, 6, 6)
    assert found == [{"first", "second", "third"}]


def test_the_layer_between_two_streams_keeps_them_apart() -> None:
    found = ties(Two(lambda net, a, b: net.linear((a + b).mean((2, 3))) + net.linear(a.mean((2, 3)))), 3, 6, 6)
    assert found == [{"first", "second"}, {"linear", "linear_1"}]


def tied(*, tasks: Sequence[str] = ("a", "b"), **options: Any) -> GatedModel:
    backbone = Two(lambda net, a, b: net.third(a + b))
    heads = {task: nn.Identity() for task in tasks}
    return gate(
        backbone, tasks=tasks, example_inputs=(torch.randn(2, 3, 6, 6),), heads=heads, tie_residual=True, **options
    )


def one_object(gated: GatedModel, name: str) -> bool:
    return getattr(gated.gates["first"], name) is getattr(gated.gates["second"], name)


@pytest.mark.parametrize("mixing", ["softmax", "hard"])
def test_tied_units_have_one_alpha_and_with_hard_mixing_one_beta(mixing: str) -> None:
    gated = tied(mixing=mixing)
    for model in (gated, copy.deepcopy(gated), copy.deepcopy(gated).double()):
        assert one_object(model, "alpha")
        assert one_object(model, "beta") == (mixing == "hard")
        assert model.gates["third"].alpha is not model.gates["first"].alpha
        assert len(gate_parameters(model)) == (4 if mixing == "hard" else 5)
        assert len({id(p) for p in gate_parameters(model)}) == len(gate_parameters(model))
    twin = copy.deepcopy(gated)
    assert twin.gates["first"].alpha is not gated.gates["first"].alpha


def test_a_step_moves_what_is_tied_once() -> None:
    gated = tied(mixing="hard")
    before = gated.gates["first"].alpha.detach().clone()
    sum(p.sum() for p in gate_parameters(gated)).backward()
    torch.optim.SGD(gate_parameters(gated), 0.1).step()
    torch.testing.assert_close(gated.gates["second"].alpha, before - 0.1)
    assert one_object(gated, "alpha")


@pytest.mark.parametrize("mixing", ["softmax", "hard"])
def test_a_state_dict_restores_tied_gates(mixing: str) -> None:
    gated, fresh = tied(mixing=mixing, gate_init_std=1.0), tied(mixing=mixing)
    fresh.load_state_dict(gated.state_dict())
    assert one_object(fresh, "alpha")
    assert all(torch.equal(a, b) for a, b in zip(gated.parameters(), fresh.parameters(), strict=True))


def test_every_tied_layer_counts_in_the_hinge() -> None:
    gated = tied(tasks=("a",))
    torch.nn.init.constant_(gated.gates["first"].alpha, torch.logit(torch.tensor(0.9)))
    torch.nn.init.constant_(gated.gates["third"].alpha, torch.logit(torch.tensor(0.3)))
    assert sparsity_hinge(gated, targets={"a": 0.0}).item() == pytest.approx((0.9 + 0.9 + 0.3) / 3)


def test_setting_one_tied_unit_sets_the_others() -> None:
    gated = tied()
    set_gates(gated, False)
    picks = torch.rand(2, 6) > 0.5
    set_gates(gated, {"second": picks})
    found = gate_decisions(gated)
    assert torch.equal(found["first"], picks)
    assert torch.equal(found["second"], picks)
    assert not found["third"].any()
    set_gates(gated, {"first": ~picks, "second": ~picks})
    assert torch.equal(gate_decisions(gated)["first"], ~picks)


def test_contradicting_decisions_for_tied_units_are_refused_and_change_nothing() -> None:
    gated = tied()
    before = gated.gates["first"].alpha.detach().clone()
    picks = torch.ones(2, 6, dtype=torch.bool)
    with pytest.raises(GateError, match="units 'first' and 'second' are tied and are given different decisions; give"):
        set_gates(gated, {"first": picks, "second": ~picks})
    assert torch.equal(gated.gates["first"].alpha, before)
