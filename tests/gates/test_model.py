"""What a gated model is: T+1 streams through one backbone, each on its own weights, sharing what is still equal."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.gates import (
    GatedModel,
    gate,
    gate_decisions,
    gate_parameters,
    set_gates,
    sparsity_hinge,
    weight_parameters,
)
from gate2static.prune import prune

TASKS = ["a", "b", "c"]


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.halve, self.drop = nn.AvgPool2d(2), nn.Dropout(0.5)
        self.first, self.norm = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(x)
        return self.second(self.drop(torch.relu(self.norm(self.first(x)))))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.mean((2, 3)))


def make(backbone: nn.Module | None = None, **options: Any) -> GatedModel:
    x = torch.randn(2, 3, 12, 12)
    backbone = Backbone() if backbone is None else backbone
    return gate(backbone, tasks=TASKS, example_inputs=(x,), heads={t: Head() for t in TASKS}, **options)


@pytest.fixture
def gated() -> GatedModel:
    """Every weight different, gates and mixing weights random."""
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.branches["shared"].norm.running_mean.normal_()
    return model.eval()


def bare(gated: GatedModel, stream: str) -> Backbone:
    backbone = Backbone()
    backbone.load_state_dict(gated.branches[stream].state_dict())
    return backbone


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 12, 12)


@pytest.mark.parametrize("training", [False, True])
def test_closed_gates_give_the_shared_network_bit_for_bit(gated: GatedModel, x: Tensor, training: bool) -> None:
    """docs/paper.md, note 1; dropout is off, since streams draw their masks apart."""
    set_gates(gated, False)
    gated.train(training)
    plain = bare(gated, "shared").train(training)
    for module in (*gated.modules(), *plain.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    outputs, features = gated(x), plain(x)
    assert list(outputs) == TASKS
    for task in TASKS:
        assert torch.equal(outputs[task], gated.heads[task](features))


def test_open_gates_give_each_task_its_own_network_bit_for_bit(gated: GatedModel, x: Tensor) -> None:
    set_gates(gated, True)
    outputs = gated(x)
    for task in TASKS:
        assert torch.equal(outputs[task], gated.heads[task](bare(gated, task).eval()(x)))


def test_one_units_gates_decide_about_its_channels_alone(gated: GatedModel, x: Tensor) -> None:
    """By hand: the first unit picks, the second unit is open."""
    picks = torch.rand(3, 8) > 0.5
    set_gates(gated, True)
    set_gates(gated, {"first": picks})
    own = {s: b.norm(b.first(F.avg_pool2d(x, 2))) for s, b in gated.branches.items()}
    for task, pick in zip(TASKS, picks, strict=True):
        mask = pick.view(1, -1, 1, 1)
        features = gated.branches[task].second(torch.relu(torch.where(mask, own[task], own["shared"])))
        torch.testing.assert_close(gated(x)[task], gated.heads[task](features))


def test_the_shared_stream_reads_the_mix(gated: GatedModel, x: Tensor) -> None:
    """By hand: eq. 3 after the first unit, seen through closed gates of the second."""
    picks = torch.rand(3, 8) > 0.5
    set_gates(gated, False)
    set_gates(gated, {"first": picks})
    own = {s: b.norm(b.first(F.avg_pool2d(x, 2))) for s, b in gated.branches.items()}
    weights = gated.gates["first"].beta.softmax(0)
    mixed = sum(
        w.view(1, -1, 1, 1) * torch.where(pick.view(1, -1, 1, 1), own[task], own["shared"])
        for task, pick, w in zip(TASKS, picks, weights, strict=True)
    )
    features = gated.branches["shared"].second(torch.relu(mixed))
    torch.testing.assert_close(gated(x)["b"], gated.heads["b"](features))


def test_a_value_that_all_streams_share_is_computed_once(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    gated, calls = make(), {"pool": 0, "convolution": 0}

    def counted(name: str, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(self: nn.Module, *args: Any) -> Tensor:
            calls[name] += 1
            return forward(self, *args)

        return call

    monkeypatch.setattr(nn.AvgPool2d, "forward", counted("pool", nn.AvgPool2d.forward))
    monkeypatch.setattr(nn.Conv2d, "forward", counted("convolution", nn.Conv2d.forward))
    gated(x)
    assert calls == {"pool": 1, "convolution": 2 * (len(TASKS) + 1)}


def test_parameters_are_weights_or_gates_and_each_once(gated: GatedModel) -> None:
    weights, gates = weight_parameters(gated), gate_parameters(gated)
    split = [id(p) for p in (*weights, *gates)]
    assert len(split) == len(set(split))
    assert set(split) == {id(p) for p in gated.parameters()}
    assert {id(p) for p in gates} == {id(p) for n, p in gated.named_parameters() if n.endswith((".alpha", ".beta"))}
    copies = (len(TASKS) + 1) * sum(p.numel() for p in Backbone().parameters())
    assert sum(p.numel() for p in weights) == copies + len(TASKS) * sum(p.numel() for p in Head().parameters())


def test_every_parameter_learns_from_the_outputs_and_the_hinge(gated: GatedModel, x: Tensor) -> None:
    gated.train()
    loss = sum(output.square().mean() for output in gated(x).values())
    (loss + sparsity_hinge(gated, targets=dict.fromkeys(TASKS, 0.0))).backward()
    assert [n for n, p in gated.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(unit.alpha.grad.abs().sum() > 0 for unit in gated.gates.values())


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(self.first(x), 0.5, training=self.training))


@pytest.mark.parametrize("backbone", [Backbone, FunctionalDropout])
@pytest.mark.parametrize("traced_in_training", [False, True])
def test_dropout_works_in_training_and_only_there(
    backbone: type[nn.Module], traced_in_training: bool, x: Tensor
) -> None:
    gated = make(backbone().train(traced_in_training))
    assert gated.training == traced_in_training
    gated.train()
    assert not torch.equal(gated(x)["a"], gated(x)["a"])
    gated.eval()
    assert torch.equal(gated(x)["a"], gated(x)["a"])


def test_running_statistics_move_in_training_and_only_there(gated: GatedModel, x: Tensor) -> None:
    norms = [branch.norm.running_mean for branch in gated.branches.values()]
    before = [norm.clone() for norm in norms]
    gated(x)
    assert all(torch.equal(a, b) for a, b in zip(before, norms, strict=True))
    gated.train()(x)
    assert not any(torch.equal(a, b) for a, b in zip(before, norms, strict=True))


def test_branches_start_from_the_states_they_are_given() -> None:
    backbone, shared, own = Backbone(), Backbone(), Backbone()
    gated = make(backbone, shared_state=shared.state_dict(), task_states={"b": own.state_dict()})
    expected = {"a": backbone, "b": own, "c": backbone, "shared": shared}
    for stream, source in expected.items():
        state = gated.branches[stream].state_dict()
        assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())


def test_gating_copies_the_backbone_and_the_heads() -> None:
    backbone, heads = Backbone().train(), {t: Head() for t in TASKS}
    before = copy.deepcopy(backbone.state_dict())
    gated = gate(backbone, tasks=TASKS, example_inputs=(torch.randn(2, 3, 12, 12),), heads=heads)
    with torch.no_grad():
        for parameter in gated.parameters():
            parameter.add_(1.0)
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not torch.equal(heads["a"].linear.weight, gated.heads["a"].linear.weight)


@pytest.mark.parametrize("whole", [True, False])
def test_what_heads_share_stays_shared(x: Tensor, whole: bool) -> None:
    """A decoder of two tasks used to be copied for each, and counted twice."""
    decoder = Head()
    heads: dict[str, nn.Module] = dict.fromkeys(TASKS, decoder)
    if not whole:
        heads = {task: nn.Sequential(decoder, nn.Linear(decoder.linear.out_features, 1)) for task in TASKS}
    gated = copy.deepcopy(gate(Backbone(), tasks=TASKS, example_inputs=(x,), heads=heads))
    of_heads = [head if whole else head.get_submodule("0") for head in gated.heads.values()]
    assert all(head is of_heads[0] for head in of_heads)
    assert sum(p.numel() for p in gated.heads.parameters()) == sum(p.numel() for p in nn.ModuleDict(heads).parameters())
    sum(output.sum() for output in gated(x).values()).backward()
    with torch.no_grad():
        for parameter in gated.heads.parameters():
            parameter.sub_(0.1 * parameter.grad)
    twin = copy.deepcopy(gated)
    twin.load_state_dict(gated.state_dict())
    static = prune(twin.eval())
    torch.testing.assert_close(static(x), gated.eval()(x))


def test_a_deep_copy_computes_the_same_and_lives_apart(gated: GatedModel, x: Tensor) -> None:
    twin = copy.deepcopy(gated)
    expected = gated(x)["a"]
    assert torch.equal(twin(x)["a"], expected)
    assert gate_decisions(twin).keys() == gate_decisions(gated).keys()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(gated(x)["a"], expected)
    assert len(gate_parameters(twin)) == len(gate_parameters(gated))


def test_a_state_dict_restores_a_fresh_gated_model(gated: GatedModel, x: Tensor) -> None:
    fresh = make().eval()
    assert not torch.equal(fresh(x)["a"], gated(x)["a"])
    fresh.load_state_dict(gated.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh(x).values(), gated(x).values(), strict=True))
    assert all(torch.equal(a, gate_decisions(gated)[unit]) for unit, a in gate_decisions(fresh).items())


def test_gates_are_set_and_read_back(gated: GatedModel) -> None:
    for specific in (False, True):
        set_gates(gated, specific)
        assert all(bool((d == specific).all()) for d in gate_decisions(gated).values())
    picks = torch.rand(3, 6) > 0.5
    set_gates(gated, {"second": picks})
    assert torch.equal(gate_decisions(gated)["second"], picks)
    assert gate_decisions(gated)["first"].all()


def test_initial_gates_lie_on_both_sides_and_mix_evenly() -> None:
    gated = make(gate_init=0.0)
    decisions = torch.cat([d.flatten() for d in gate_decisions(gated).values()])
    assert decisions.any()
    assert not decisions.all()
    assert all((unit.mixing() == 1 / 3).all() for unit in gated.gates.values())
    assert all(d.all() for d in gate_decisions(make(gate_init=3.0)).values())


def test_groups_share_a_logit(x: Tensor) -> None:
    gated = make(group_size=3)
    assert {name: tuple(unit.alpha.shape) for name, unit in gated.gates.items()} == {"first": (3, 3), "second": (3, 2)}
    set_gates(gated, {"first": torch.tensor([[True, False, True]] * 3)})
    assert gate_decisions(gated)["first"][0].tolist() == [True] * 3 + [False] * 3 + [True] * 2
    assert gated(x)["a"].shape == (4, 4)


class Structured(nn.Module):
    """Takes and returns structures."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, views: dict[str, Tensor], weight: Tensor | None = None) -> dict[str, Any]:
        low = self.first(views["left"]) + self.first(views["right"])
        return {"low": [low], "high": (self.second(low), low * 2)}


class ReadsStructure(nn.Module):
    def forward(self, features: dict[str, Any]) -> Tensor:
        return features["high"][0].mean((2, 3)).sum(1) + features["low"][0].mean((1, 2, 3))


def test_structures_go_in_and_come_out_as_the_backbones_own() -> None:
    views = {"left": torch.randn(2, 3, 6, 6), "right": torch.randn(2, 3, 6, 6)}
    backbone = Structured()
    gated = gate(backbone, tasks=["a"], example_inputs=(views,), heads={"a": ReadsStructure()}).eval()
    set_gates(gated, False)
    torch.testing.assert_close(gated(views)["a"], ReadsStructure()(backbone(views)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gates_take_the_backbones_dtype(dtype: torch.dtype, x: Tensor) -> None:
    backbone = FunctionalDropout().to(dtype)
    head = nn.Conv2d(6, 2, 1).to(dtype)
    gated = gate(backbone, tasks=["a"], example_inputs=(x.to(dtype),), heads={"a": head})
    assert {p.dtype for p in gated.parameters()} == {dtype}
    assert gated(x.to(dtype))["a"].dtype == dtype


def test_gates_follow_autocast(gated: GatedModel, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = gated.train()(x)
        loss = sum(output.float().square().mean() for output in outputs.values())
    loss.backward()
    assert outputs["a"].dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in gated.parameters())
