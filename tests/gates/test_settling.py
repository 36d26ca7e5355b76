"""Settled gates: training computes only what undecided gates still need, and nothing else changes."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gate2static.errors import CheckpointError, GateError
from gate2static.gates import (
    GatedModel,
    gate,
    gate_decisions,
    gate_parameters,
    gating,
    set_gates,
    settled_gate,
    sparsity_hinge,
)
from gate2static.gates.settled_lift import lift_settled
from gate2static.gates.settling import GateSettling
from gate2static.prune import prune

TASKS = ["a", "b", "c"]


class Block(nn.Module):
    """Residual, with a depth-wise convolution in the middle."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.depthwise, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, groups=outputs), nn.BatchNorm2d(outputs)
        self.last, self.norm3 = nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.first(x)))
        y = nn.functional.silu(self.norm2(self.depthwise(y)))
        return torch.relu(self.norm3(self.last(y)) + self.skip(x))


class Backbone(nn.Module):
    """Convolutions with and without norms, element-wise operators, a transposed convolution, tokens, opaque means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.pool = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 12))
        self.up = nn.ConvTranspose2d(12, 6, 2, 2)
        self.token_norm, self.mlp, self.back = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(torch.relu(self.norm(self.stem(x)))))
        tokens = self.up(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.back(nn.functional.gelu(self.mlp(self.token_norm(tokens))))
        return tokens * 0.5


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.mean(1))


Settled = dict[str, np.ndarray]


def make(backbone: nn.Module | None = None, tasks: list[str] = TASKS, **options: Any) -> GatedModel:
    heads = {t: Head() for t in tasks}
    backbone = (backbone or Backbone()).double()
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    model = gate(backbone, tasks=tasks, example_inputs=(x,), heads=heads, **options).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def settle(gated: GatedModel, share: float, own: float, seed: int = 0) -> tuple[dict[str, Tensor], Settled]:
    """Settles gates at random; the settled groups, and the settled channels."""
    generator = torch.Generator().manual_seed(seed)
    groups: dict[int, Tensor] = {}
    for unit in gated.gates.values():
        if id(unit.alpha) not in groups:
            settled = torch.rand(unit.alpha.shape, generator=generator) < share
            specific = torch.rand(unit.alpha.shape, generator=generator) < own
            with torch.no_grad():
                unit.alpha.copy_(torch.where(settled, torch.where(specific, 0.7, -0.7), unit.alpha))
            groups[id(unit.alpha)] = settled
    by_unit = {name: groups[id(unit.alpha)] for name, unit in gated.gates.items()}
    return by_unit, {name: gated.gates[name].per_channel(s).numpy() for name, s in by_unit.items()}


def narrow(gated: GatedModel, settled: Settled) -> None:
    encoder = lift_settled(gated.program, gated.branches, gated.gates, settled)
    assert encoder is not None
    gated.train_with(encoder)


def backward(gated: GatedModel, x: Tensor) -> dict[str, Tensor]:
    outputs = gated(x)
    weights = torch.linspace(-1, 2, steps=2 * len(x), dtype=x.dtype).view(-1, 2)
    loss = sum((i + 1) * (output * weights).sin().sum() for i, output in enumerate(outputs.values()))
    targets = dict.fromkeys(gated.tasks, 0.0)
    (loss + sparsity_hinge(gated, targets=targets)).backward()
    return outputs


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 14, 14, dtype=torch.float64)


def largest_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1))


def compare(gated: GatedModel, settled: tuple[dict[str, Tensor], Settled], x: Tensor) -> float:
    """How far a settled network is from the whole one whose settled gates have no gradient: outputs and gradients."""
    whole = copy.deepcopy(gated)
    narrow(gated, settled[1])
    outputs, expected = backward(gated, x), backward(whole, x)
    differences = [largest_difference(outputs[t], expected[t]) for t in gated.tasks]
    frozen = {id(whole.gates[name].alpha): groups for name, groups in settled[0].items()}
    for ours, theirs in zip(gated.parameters(), whole.parameters(), strict=True):
        assert ours.grad is not None
        wanted, got = theirs.grad, ours.grad
        if id(theirs) in frozen:  # `GateSettling` does that
            wanted, got = (g.masked_fill(frozen[id(theirs)], 0) for g in (wanted, got))
        differences.append(largest_difference(got, wanted))
    return max(differences)


CASES = {
    "mixed": {},
    "hard": {"mixing": "hard"},
    "groups": {"group_size": 3},
    "hard groups": {"mixing": "hard", "group_size": 4},
    "tied": {"tie_residual": True},
    "hard and tied": {"mixing": "hard", "tie_residual": True},
    "one task": {"tasks": ["a"]},
}


SHARES = [(0.8, 0.0), (0.8, 0.4), (1.0, 0.5), (0.95, 1.0), (1.0, 0.0)]
"""Of settled gates, and of those among them that settled as specific."""


@pytest.mark.parametrize(
    ("case", "share", "own"), [*(("mixed", *pair) for pair in SHARES), *((case, 0.8, 0.4) for case in CASES)]
)
def test_a_settled_network_computes_and_learns_as_the_whole_one(case: str, share: float, own: float, x: Tensor) -> None:
    gated = make(**CASES[case])
    assert compare(gated, settle(gated, share, own), x) < 1e-12


def test_it_does_so_in_pieces_of_the_batch(monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    for module in (gating, settled_gate):
        monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 1)
    gated = make()
    assert compare(gated, settle(gated, 0.8, 0.4), x) < 1e-12


def test_the_comparison_notices_a_gate_that_settled_on_the_wrong_side(x: Tensor) -> None:
    gated = make()
    _, channels = settle(gated, 0.8, 0.3)
    with torch.no_grad():
        gated.gates["blocks_0_first"].alpha.neg_()
    encoder = lift_settled(gated.program, gated.branches, gated.gates, channels)
    with torch.no_grad():
        gated.gates["blocks_0_first"].alpha.neg_()
    expected, whole = backward(copy.deepcopy(gated), x), gated
    whole.train_with(encoder)
    outputs = backward(whole, x)
    assert max(largest_difference(outputs[t], expected[t]) for t in TASKS) > 1e-6


def test_running_statistics_of_needed_channels_move_and_others_stay(x: Tensor) -> None:
    gated = make()
    settled = settle(gated, 0.8, 0.3)
    whole, before = copy.deepcopy(gated), copy.deepcopy(gated)
    narrow(gated, settled[1])
    gated(x)
    whole(x)
    shared = {
        t: torch.from_numpy(settled[1]["stem"][i]) & ~gate_decisions(gated)["stem"][i] for i, t in enumerate(TASKS)
    }
    for task in TASKS:
        ours, theirs, old = (m.branches[task].norm.running_var for m in (gated, whole, before))
        assert torch.allclose(ours[~shared[task]], theirs[~shared[task]], rtol=1e-12)
        assert torch.equal(ours[shared[task]], old[shared[task]])
        assert not torch.equal(ours, old)
        assert gated.branches[task].norm.num_batches_tracked == whole.branches[task].norm.num_batches_tracked


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Output channels of every convolution that ran."""
    channels: list[int] = []
    original = nn.Conv2d._conv_forward

    def forward(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        channels.append(len(weight))
        return original(self, x, weight, bias)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", forward)
    return channels


def test_gates_that_settled_as_shared_leave_one_backbone(x: Tensor, computed: list[int]) -> None:
    gated = make()
    narrow(gated, settle(gated, 1.0, 0.0)[1])
    computed.clear()
    gated(x)
    assert computed == [8, *(8, 8, 8, 8), *(12, 12, 12, 12)]


def test_gates_that_settled_as_specific_leave_no_shared_backbone(x: Tensor, computed: list[int]) -> None:
    gated = make(tasks=["a", "b"], backbone=Backbone())
    narrow(gated, settle(gated, 1.0, 1.0)[1])
    computed.clear()
    gated(x)
    assert len(computed) == 2 * 9


def test_only_channels_that_are_needed_are_computed(x: Tensor, computed: list[int]) -> None:
    gated = make()
    _, channels = settle(gated, 0.8, 0.0)
    narrow(gated, channels)
    computed.clear()
    gated(x)
    own = [int((~row).sum()) for row in channels["stem"]]
    assert computed[: len(own)] == [n for n in (*own, 8) if n]


def test_where_little_is_settled_nothing_is_rebuilt() -> None:
    gated = make()
    nothing = {name: np.zeros((3, unit.channels), bool) for name, unit in gated.gates.items()}
    assert lift_settled(gated.program, gated.branches, gated.gates, nothing) is None


def test_half_precision_training_runs(x: Tensor) -> None:
    gated = make().float()
    narrow(gated, settle(gated, 0.8, 0.2)[1])
    with torch.autocast("cpu", torch.bfloat16):
        outputs = gated(x.float())
    sum(output.float().square().mean() for output in outputs.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in gated.parameters())


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


@pytest.mark.parametrize("change", [lambda g: set_gates(g, True), lambda g: g.float(), lambda g: g.to("cpu")])
def test_changing_the_model_ends_it_until_the_next_lift(change: Any) -> None:
    gated = make()
    settling = GateSettling(gated, after_steps=1)
    settling.step()
    assert gated.settled_encoder
    change(gated)
    assert not gated.settled_encoder
    settling.step()
    assert gated.settled_encoder


def test_distributed_training_takes_it(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        gated = make()
        narrow(gated, settle(gated, 1.0, 0.0)[1])
        network = nn.parallel.DistributedDataParallel(gated)
        for _ in range(2):
            outputs = network(torch.randn(2, 3, 14, 14, dtype=torch.float64))
            sum(output.square().mean() for output in outputs.values()).backward()
        assert all(p.grad is not None for p in gated.parameters())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_steps_that_are_no_count_are_an_error(steps: Any) -> None:
    with pytest.raises(GateError, match="after_steps is .* at least 1"):
        GateSettling(make(), after_steps=steps)


def test_the_state_of_another_model_is_an_error() -> None:
    state = GateSettling(make(), after_steps=2).state_dict()
    with pytest.raises(CheckpointError, match="go on with the model that it was saved with"):
        GateSettling(make(group_size=2), after_steps=2).load_state_dict(state)
