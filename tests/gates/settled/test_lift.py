"""What trains once gates are settled computes what undecided gates still need, and learns what the whole would."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gate2static.gates import GatedModel, gate, gate_decisions
from gate2static.gates import channel_gate as gating
from gate2static.gates.settled import gate as settled_gate
from gate2static.gates.settled.layers import PickChannels
from gate2static.gates.settled.lift import lift_settled
from tests.gates.settled.networks import TASKS, Backbone, Head, Settled, backward, make, narrow, settle

pytestmark = pytest.mark.slow


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
    ("case", "share", "own"),
    [*(("mixed", *pair) for pair in SHARES), *((case, 0.8, 0.4) for case in CASES if case != "mixed")],
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


class Padded(nn.Module):
    """Starts with what has no state, and reads an index and a number that all streams have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.first, self.second = nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.register_buffer("order", torch.tensor([3, 2, 1, 0, 7, 6, 5, 4]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.pad(x)))[:, self.order]
        return self.second(x * torch.tensor(2)).flatten(2).transpose(1, 2)


class NormedTokens(nn.Module):
    """Batch norm whose channels are the tokens, not those of the linear layer before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.last = nn.Linear(42, 8), nn.BatchNorm1d(14), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.embed(x.transpose(1, 2).flatten(2)))))


@pytest.mark.parametrize("backbone", [Padded, NormedTokens])
@pytest.mark.parametrize("own", [0.0, 0.4])
def test_it_computes_and_learns_so_on_other_backbones(backbone: type[nn.Module], own: float, x: Tensor) -> None:
    gated = make(backbone())
    assert compare(gated, settle(gated, 0.8, own), x) < 1e-12


class NormedTwice(nn.Module):
    """One batch norm behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(torch.relu(self.norm(self.first(x))))).flatten(2).transpose(1, 2)


def test_a_norm_that_is_called_whole_and_in_part_keeps_its_gradients(x: Tensor) -> None:
    gated = make(NormedTwice())
    groups, channels = settle(gated, 0.8, 0.0)
    first = next(iter(groups))
    assert first.startswith("first")
    groups[first].zero_()
    channels[first][:] = False
    whole = copy.deepcopy(gated)
    assert compare(gated, (groups, channels), x) < 1e-12
    whole(x)
    for task in TASKS:
        ours, theirs = gated.branches[task].norm, whole.branches[task].norm
        assert torch.allclose(ours.running_var, theirs.running_var, rtol=1e-12)


class SideOutput(nn.Module):
    """The first unit makes a map that the heads do not read."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.stem, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.side(x), self.last(torch.relu(self.stem(x))).flatten(2).transpose(1, 2)]


class LastHead(Head):
    def forward(self, features: list[Tensor]) -> Tensor:
        return super().forward(features[-1])


def test_what_takes_no_part_gets_zero_gradients_past_units_that_no_head_reads(x: Tensor) -> None:
    heads = {t: LastHead().double() for t in TASKS}
    gated = gate(SideOutput().double(), tasks=TASKS, example_inputs=(x,), heads=heads).train()
    narrow(gated, settle(gated, 1.0, 0.0)[1])
    backward(gated, x)
    read = {n: p.grad for n, p in gated.named_parameters() if ".stem." in n or ".last." in n}
    assert read
    assert all(grad is not None for grad in read.values())


def test_inputs_that_nobody_reads_are_still_taken(x: Tensor) -> None:
    class TwoInputs(Backbone):
        def forward(self, x: Tensor, unread: Tensor) -> Tensor:
            return super().forward(x)

    gated = gate(
        TwoInputs().double(), tasks=TASKS, example_inputs=(x[:2], x[:2]), heads={t: Head().double() for t in TASKS}
    ).train()
    expected = copy.deepcopy(gated)
    settled = settle(gated, 0.8, 0.3)
    settle(expected, 0.8, 0.3)
    narrow(gated, settled[1])
    assert all(torch.allclose(gated(x, x)[t], expected(x, x)[t]) for t in TASKS)


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


def test_the_gradient_of_picks_from_an_expanded_tensor_is_a_dense_one() -> None:
    """A token that is the same for all samples lies in one place for all of them."""
    token = torch.randn(1, 3, 2, requires_grad=True)
    first, second = PickChannels(2, [torch.tensor([1]), torch.tensor([0, 1])])(token.expand(4, -1, -1))
    (first.sum() + second.sum()).backward()
    assert token.grad.tolist() == [[[4.0, 8.0]] * 3]
