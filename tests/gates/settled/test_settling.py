"""Settled gates: training computes only what undecided gates still need, and nothing else changes."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gate2static.errors import CheckpointError, GateError
from gate2static.gates import (
    GatedModel,
    gate_decisions,
    gate_parameters,
    set_gates,
)
from gate2static.gates.settled.settling import GateSettling
from gate2static.prune import prune
from tests.gates.settled.networks import TASKS, backward, make, narrow, settle

pytestmark = pytest.mark.slow


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 14, 14, dtype=torch.float64)


def train(gated: GatedModel, settling: GateSettling, steps: int, optimisers: list[torch.optim.Optimizer]) -> None:
    for _ in range(steps):
        backward(gated, torch.linspace(-1, 1, 2 * 3 * 14 * 14, dtype=torch.float64).view(2, 3, 14, 14))
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        settling.step()


def optimisers_of(gated: GatedModel) -> list[torch.optim.Optimizer]:
    gates = {id(p) for p in gate_parameters(gated)}
    weights = [p for p in gated.parameters() if id(p) not in gates]
    sgd = torch.optim.SGD(gate_parameters(gated), lr=0.05, momentum=0.9, weight_decay=0.1)
    return [torch.optim.Adam(weights, lr=1e-3), sgd]


@pytest.mark.parametrize("options", [{}, {"tie_residual": True, "group_size": 2}])
def test_a_gate_that_kept_its_side_is_frozen_to_the_last_bit(options: dict[str, Any]) -> None:
    gated = make(gate_init_std=0.3, **options)
    settling, optimisers = GateSettling(gated, after_steps=4), optimisers_of(gated)
    train(gated, settling, 3, optimisers)
    assert settling.share_settled == 0.0
    train(gated, settling, 1, optimisers)
    assert 0.5 < settling.share_settled <= 1.0
    assert gated.settled_encoder
    before = {name: unit.alpha.detach().clone() for name, unit in gated.gates.items()}
    settled = settling.state_dict()["gates"]
    settled = {name: h["settled"].clone() for name, h in settled.items()}
    train(gated, settling, 4, optimisers)
    for name, mask in settled.items():
        alpha = gated.gates[name].alpha
        assert torch.equal(alpha[mask], before[name][mask])
    backward(gated, torch.ones(2, 3, 14, 14, dtype=torch.float64))
    assert all((gated.gates[name].alpha.grad[mask] == 0).all() for name, mask in settled.items())


def test_a_gate_that_changes_sides_is_not_settled() -> None:
    gated = make()
    settling = GateSettling(gated, after_steps=3)
    for step in range(8):
        with torch.no_grad():
            gated.gates["stem"].alpha[0, 0] = 1.0 if step % 3 else -1.0
        settling.step()
    settled = settling.state_dict()["gates"]["stem"]["settled"]
    assert not settled[0, 0]
    assert settled.sum() == settled.numel() - 1


def test_going_on_from_a_state_is_going_on_bit_for_bit() -> None:
    torch.manual_seed(1)
    one = make(gate_init_std=0.3)
    settling, optimisers = GateSettling(one, after_steps=4), optimisers_of(one)
    train(one, settling, 6, optimisers)
    states = copy.deepcopy([one.state_dict(), settling.state_dict(), *(o.state_dict() for o in optimisers)])
    other = make(gate_init_std=0.3)
    other.load_state_dict(states[0])
    again, others = GateSettling(other, after_steps=4), optimisers_of(other)
    again.load_state_dict(states[1])
    for optimiser, state in zip(others, states[2:], strict=True):
        optimiser.load_state_dict(state)
    for model, counts, theirs in ((one, settling, optimisers), (other, again, others)):
        train(model, counts, 5, theirs)
    assert again.share_settled == settling.share_settled
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_saved_state_is_plain(tmp_path: Path) -> None:
    settling = GateSettling(make(), after_steps=2)
    settling.step()
    torch.save(settling.state_dict(), tmp_path / "state.pt")
    settling.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_evaluation_copies_and_files_know_nothing_of_it(x: Tensor) -> None:
    gated = make()
    keys, plain = list(gated.state_dict()), copy.deepcopy(gated).eval()
    expected = {name: p.shape for name, p in gated.named_parameters()}
    settled = settle(gated, 0.8, 0.3)
    settle(plain, 0.8, 0.3)
    narrow(gated, settled[1])
    assert list(gated.state_dict()) == keys
    assert {name: p.shape for name, p in gated.named_parameters()} == expected
    gated.eval()
    assert all(torch.equal(gated(x)[t], plain(x)[t]) for t in TASKS)
    assert torch.allclose(prune(gated)(x)["b"], gated(x)["b"], rtol=1e-9)
    gated.train()
    assert gated.settled_encoder
    assert copy.deepcopy(gated).settled_encoder is None
    assert pickle.loads(pickle.dumps(gated)).settled_encoder is None


@pytest.mark.parametrize(
    "change",
    [
        lambda g: set_gates(g, True),
        lambda g: g.float(),
        lambda g: g.to("cpu"),
        lambda g: g.load_state_dict(make().state_dict()),
        lambda g: torch.nn.Sequential(g).load_state_dict({f"0.{k}": v for k, v in make().state_dict().items()}),
    ],
)
def test_changing_the_model_unsettles_its_gates(change: Any) -> None:
    gated = make()
    settling = GateSettling(gated, after_steps=2)
    settle(gated, 1.0, 0.0)
    for _ in range(3):
        settling.step()
    assert gated.settled_encoder
    assert settling.share_settled == 1.0
    change(gated)
    assert not gated.settled_encoder
    expected = gate_decisions(gated)
    settling.step()
    assert settling.share_settled == 0.0
    assert all(torch.equal(expected[name], found) for name, found in gate_decisions(gated).items())


def test_gates_are_free_as_soon_as_the_model_is_changed() -> None:
    gated = make()
    settling = GateSettling(gated, after_steps=2)
    settle(gated, 1.0, 0.0)
    for _ in range(3):
        settling.step()
    set_gates(gated, True)
    assert settling.share_settled == 0.0
    backward(gated, torch.randn(2, 3, 14, 14, dtype=torch.float64))
    fresh = copy.deepcopy(gated)
    fresh.zero_grad()
    backward(fresh, torch.randn(2, 3, 14, 14, dtype=torch.float64))
    for mine, its in zip(gate_parameters(gated), gate_parameters(fresh), strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.equal(mine.grad != 0, its.grad != 0)


def test_going_back_to_a_state_without_settled_gates_keeps_what_it_had_counted() -> None:
    gated = make()
    settling = GateSettling(gated, after_steps=4)
    settle(gated, 1.0, 0.0)
    for _ in range(3):
        settling.step()
    early = copy.deepcopy((gated.state_dict(), settling.state_dict()))
    for _ in range(4):
        settling.step()
    assert settling.share_settled == 1.0
    gated.load_state_dict(early[0])
    settling.load_state_dict(early[1])
    assert settling.share_settled == 0.0
    settling.step()
    kept = {int(h["kept"].min()) for h in settling.state_dict()["gates"].values()}
    assert kept == {int(h["kept"].min()) + 1 for h in early[1]["gates"].values()}


def test_gates_stay_free_while_settling_them_saves_nothing() -> None:
    gated = make()
    settling = GateSettling(gated, after_steps=2)
    for _ in range(6):
        with torch.no_grad():
            for unit in gated.gates.values():
                unit.alpha[1:].neg_()
                unit.alpha[:1, 1:].neg_()
        settling.step()
    assert settling.share_settled == 0.0
    assert gated.settled_encoder is None


def test_a_gate_that_is_not_trained_may_settle() -> None:
    gated = make()
    for unit in gated.gates.values():
        unit.alpha.requires_grad_(requires_grad=False)
    settling = GateSettling(gated, after_steps=1)
    settle(gated, 1.0, 0.0)
    settling.step()
    settling.step()
    assert settling.share_settled == 1.0


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_steps_that_are_no_count_are_an_error(steps: Any) -> None:
    with pytest.raises(GateError, match="after_steps is .* at least 1"):
        GateSettling(make(), after_steps=steps)


def test_the_state_of_another_model_is_an_error() -> None:
    state = GateSettling(make(), after_steps=2).state_dict()
    with pytest.raises(CheckpointError, match="go on with the model that it was saved with"):
        GateSettling(make(group_size=2), after_steps=2).load_state_dict(state)
