"""`with_tasks`: tasks that stay keep what they have, and new ones start as the shared network."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import GateError
from tests import zoo

Outputs = Mapping[str, Any]
NETWORKS = ["two_scales", pytest.param("token_rules", marks=pytest.mark.slow)]


def outputs(gated: g2s.GatedModel, x: Tensor) -> Outputs:
    with torch.no_grad():
        found: Outputs = gated.eval()(x)
    return found


def worst(before: Outputs, after: Outputs) -> float:
    """The largest relative error over the tasks that both have."""
    both = [task for task in before if task in after]
    assert both
    return zoo.relative_error([before[task] for task in both], [after[task] for task in both])


def new_head(gated: g2s.GatedModel) -> nn.Module:
    head = copy.deepcopy(gated.heads[gated.tasks[0]])
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_tasks_give_the_same_network(name: str) -> None:
    gated, x = zoo.make_gated(name, tasks=3)
    same = g2s.with_tasks(gated, gated.tasks)
    state = gated.state_dict()
    assert state.keys() == same.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in same.state_dict().items())
    assert worst(outputs(gated, x), outputs(same, x)) == 0
    assert g2s.prune(same).manifest == g2s.prune(gated).manifest
    turned = g2s.with_tasks(gated, gated.tasks[::-1])
    assert worst(outputs(gated, x), outputs(turned, x)) <= 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_dropping_tasks_changes_nothing_where_the_mix_does_not_decide(name: str) -> None:
    gated, x = zoo.make_gated(name, tasks=3)
    g2s.set_gates(gated, True)
    # The first branch also has the layers that all streams have in common.
    rest = g2s.with_tasks(gated, gated.tasks[1:])
    assert worst(outputs(gated, x), outputs(rest, x)) <= 1e-6
    assert g2s.verify(rest.eval(), g2s.prune(rest)).passed
    assert not any(f"branches.{gated.tasks[0]}." in key for key in rest.state_dict())


class Prepared(nn.Module):
    """A backbone that prepares its images by what has no floating-point state, so that all streams share it."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.halve = nn.Sequential(nn.AvgPool2d(2))
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(self.halve(x)[:, self.order]))


def test_what_all_streams_share_stays_where_the_first_task_goes() -> None:
    heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 1, 1)}
    x = torch.randn(2, 3, 8, 8)
    gated = zoo.randomise(g2s.gate(Prepared(), tasks=["a", "b"], example_inputs=(x,), heads=heads))
    g2s.set_gates(gated, True)
    for tasks, new in ((["b"], {}), (["c", "b"], {"c": nn.Conv2d(4, 1, 1)})):
        rest = g2s.with_tasks(gated, tasks, heads=new)
        assert worst(outputs(gated, x), outputs(rest, x)) <= 1e-6
        assert g2s.verify(rest, g2s.prune(rest)).passed


def test_gates_stay_with_their_tasks() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=3)
    rest = g2s.with_tasks(gated, [gated.tasks[2], gated.tasks[0]])
    for unit, decision in g2s.gate_decisions(gated).items():
        assert torch.equal(g2s.gate_decisions(rest)[unit], decision[[2, 0]])
        assert torch.equal(rest.gates[unit].beta, gated.gates[unit].beta[[2, 0]])


@pytest.mark.parametrize(("name", "mixing"), [("two_scales", "hard"), ("many_rules", "softmax")])
def test_a_new_task_changes_nothing_for_the_others_and_starts_as_the_shared_network(name: str, mixing: str) -> None:
    gated, x = zoo.make_gated(name, tasks=2, mixing=mixing)
    before = outputs(gated, x)
    more = g2s.with_tasks(gated, [*gated.tasks, "fresh"], heads={"fresh": new_head(gated)})
    after = outputs(more, x)
    assert worst(before, after) <= 1e-5
    assert not any(bool(decision[2].any()) for decision in g2s.gate_decisions(more).values())
    assert g2s.verify(more, g2s.prune(more)).passed
    shared = dict(gated.branches["shared"].named_parameters())
    assert all(torch.equal(value, shared[key]) for key, value in more.branches["fresh"].named_parameters())
    more.train()(x)["fresh"].sum().backward()
    last = list(more.gates.values())[-1]
    assert last.alpha.grad is not None
    assert bool(last.alpha.grad[2].any())
    assert all(parameter.grad is not None for parameter in more.heads["fresh"].parameters())


def test_the_old_network_is_not_changed_and_shares_nothing() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2)
    state = {key: value.clone() for key, value in gated.state_dict().items()}
    more = g2s.with_tasks(gated, [gated.tasks[1], "fresh"], heads={"fresh": new_head(gated)})
    with torch.no_grad():
        for tensor in (*more.parameters(), *more.buffers()):
            if tensor.is_floating_point():
                tensor.add_(1)
    assert all(torch.equal(value, state[key]) for key, value in gated.state_dict().items())


def test_ties_dtype_and_frozen_gates_stay() -> None:
    gated, x = zoo.make_gated("two_scales", tasks=2, tie_residual=True, mixing="hard", group_size=2)
    gated.double()
    for gate in gated.gates.values():
        gate.alpha.requires_grad_(False)
    more = g2s.with_tasks(gated, [*gated.tasks, "fresh"], heads={"fresh": new_head(gated)})
    assert len(g2s.gate_parameters(more)) == len(g2s.gate_parameters(gated)) < 2 * len(gated.gates)
    assert {parameter.dtype for parameter in more.parameters()} == {torch.float64}
    assert not any(gate.alpha.requires_grad for gate in more.gates.values())
    assert all(gate.group_size == gated.gates[unit].group_size for unit, gate in more.gates.items())
    assert worst(outputs(gated, x.double()), outputs(more, x.double())) <= 1e-9


class Frozen(nn.Module):
    """A backbone with a setting, whose norm stays in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = 0.1
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.norm(self.conv(x)), self.slope)


def test_modes_and_refusals_of_branches_stay() -> None:
    heads = {"a": nn.Conv2d(4, 1, 1), "b": nn.Conv2d(4, 1, 1)}
    gated = g2s.gate(Frozen().train(), tasks=["a", "b"], example_inputs=(torch.randn(2, 3, 8, 8),), heads=heads)
    more = g2s.with_tasks(gated.train(), ["b", "c"], heads={"c": nn.Conv2d(4, 1, 1)})
    for network in (more, more.eval().train()):
        for branch in network.branches.values():
            assert not branch.get_submodule("norm").training
            assert branch.get_submodule("conv").training
    with pytest.raises(GateError, match="'slope' of the backbone was fixed"):
        more.branches["c"].slope = 0.2  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("tasks", "heads", "message"),
    [
        (["nowhere"], {}, "no head for task nowhere"),
        ([], {}, "allowed is a list of at least one name"),
        ("ab", {}, "tasks are 'ab'"),
        (["a", "a"], {}, "all different"),
        (["a", "shared"], {"shared": nn.Identity()}, "task names .* are not allowed"),
        (["a"], {"a": nn.Identity()}, "tasks that stay keep their heads"),
        (["a"], {"fresh": nn.Identity()}, "not among the tasks"),
        (["a", "fresh"], {"fresh": nn.Linear(7, 7)}, "the head of task 'fresh' does not run"),
        (["a", "fresh"], {"fresh": torch.relu}, "are no torch.nn.Module"),
        (3, {}, "tasks is|tasks are"),
        (["a"], [nn.Identity()], "heads"),
    ],
    ids=[f"case {number}" for number in range(11)],
)
def test_what_cannot_be_kept_or_made_is_one_line(tasks: Any, heads: Any, message: str) -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2)
    with pytest.raises(GateError, match=message):
        g2s.with_tasks(gated, tasks, heads=heads)
