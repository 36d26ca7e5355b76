"""The gate of one unit: eq. 2 and 3, and their gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gate2static.gates import channel_gate as gating
from gate2static.gates.channel_gate import Gate, Mixing, _SelectAndMix


def _plain(dim: int, gates: Tensor, mixing: Tensor, *streams: Tensor) -> tuple[Tensor, ...]:
    """Eq. 2 and 3 as they stand, for autograd to differentiate."""
    *own, shared = streams
    shape = [1] * shared.dim()
    shape[dim] = -1
    picked = [g.view(shape) * x + (1 - g.view(shape)) * shared for g, x in zip(gates, own, strict=True)]
    return *picked, sum(w.view(shape) * x for w, x in zip(mixing, picked, strict=True))


def _case(shape: tuple[int, ...], channels: int) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    gates = (torch.rand(3, channels) > 0.5).double().requires_grad_()
    mixing = torch.randn(3, channels).double().softmax(0).requires_grad_()
    return gates, mixing, *(torch.randn(shape).double().requires_grad_() for _ in range(4))


LAYOUTS = [((5, 4, 3, 2), 1), ((5, 4), 1), ((5, 3, 4), -1), ((2, 4, 2, 2, 2), 1)]


@pytest.mark.parametrize("chunk", [1, 2**17])
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
def test_values_and_gradients_are_those_of_the_equations(
    shape: tuple[int, ...], dim: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gating, "_CHUNK_ELEMENTS", chunk)
    inputs = _case(shape, 4)
    found, expected = _SelectAndMix.apply(dim, *inputs), _plain(dim, *inputs)
    torch.testing.assert_close(found, expected)
    seeds = [torch.randn_like(x) for x in expected]
    torch.testing.assert_close(torch.autograd.grad(found, inputs, seeds), torch.autograd.grad(expected, inputs, seeds))


def test_the_threshold_passes_the_gradient_of_the_sigmoid() -> None:
    gate = Gate(tasks=1, channels=3, dim=1, group_size=1, gate_init=0.3, gate_init_std=0.0)
    own, shared = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    gate(own, shared)[0].sum().backward()
    slope = gate.alpha.sigmoid() * (1 - gate.alpha.sigmoid())
    torch.testing.assert_close(gate.alpha.grad, (slope * (own - shared).sum((0, 2, 3))).detach())


def test_a_closed_gate_copies_the_shared_channel_bit_for_bit_and_so_does_the_mix() -> None:
    gate = Gate(tasks=3, channels=8, dim=1, group_size=1, gate_init=-1.0, gate_init_std=0.0)
    torch.nn.init.normal_(gate.beta)
    streams = [torch.randn(2, 8, 5, 5) for _ in range(4)]
    assert all(torch.equal(output, streams[-1]) for output in gate(*streams))


def test_an_open_gate_copies_the_own_channel_bit_for_bit() -> None:
    gate = Gate(tasks=2, channels=8, dim=1, group_size=1, gate_init=1.0, gate_init_std=0.0)
    streams = [torch.randn(2, 8, 5, 5) for _ in range(3)]
    outputs = gate(*streams)
    assert torch.equal(outputs[0], streams[0])
    assert torch.equal(outputs[1], streams[1])


def test_the_shared_stream_mixes_what_was_picked_not_what_was_offered() -> None:
    """docs/paper.md, note 1: raw features of a closed gate must not reach the shared stream."""
    gate = Gate(tasks=2, channels=1, dim=1, group_size=1, gate_init=-1.0, gate_init_std=0.0)
    mixed = gate(torch.full((1, 1, 1, 1), 7.0), torch.full((1, 1, 1, 1), 9.0), torch.full((1, 1, 1, 1), 2.0))[-1]
    assert mixed.item() == 2.0


def test_decisions_do_not_depend_on_the_dtype() -> None:
    gate = Gate(tasks=1, channels=1, dim=1, group_size=1, gate_init=1e-9, gate_init_std=0.0)
    assert gate.decisions().all()
    assert gate.double().decisions().all()


def test_channels_of_a_group_share_a_logit_and_the_last_group_may_be_short() -> None:
    gate = Gate(tasks=2, channels=5, dim=1, group_size=2, gate_init=0.0, gate_init_std=1.0)
    assert gate.alpha.shape == (2, 3)
    decisions = gate.decisions()
    assert torch.equal(decisions[:, 0], decisions[:, 1])
    assert torch.equal(decisions[:, 2], decisions[:, 3])
    assert decisions.shape == (2, 5)


def hard(channels: int = 7, gate_init: float = 1.0) -> Gate:
    """Three tasks, groups of two channels."""
    sizes = {"tasks": 3, "channels": channels, "dim": 1, "group_size": 2}
    return Gate(**sizes, gate_init=gate_init, gate_init_std=0.5, mixing="hard")


def test_a_hard_mix_is_the_winners_picked_channel_bit_for_bit() -> None:
    gate = hard(gate_init=0.0)
    streams = [torch.randn(2, 7, 3, 3) for _ in range(4)]
    *picked, mixed = gate(*streams)
    assert gate.beta.shape == gate.alpha.shape == (3, 4)
    winners = gate.beta.argmax(0).repeat_interleave(2)[:7]
    assert torch.equal(gate.winners(), winners)
    assert all(torch.equal(mixed[:, c], picked[w][:, c]) for c, w in enumerate(winners))
    assert gate.contributions() == [pytest.approx(float((winners == t).double().mean())) for t in range(3)]


def test_the_hard_choice_passes_the_gradient_of_the_softmax() -> None:
    gate = hard().double()
    streams = [torch.randn(2, 7, 3, 3).double().requires_grad_() for _ in range(4)]
    seed = torch.randn(2, 7, 3, 3).double()
    *picked, mixed = gate(*streams)
    mixed.backward(seed)
    beta = gate.beta.detach().clone().requires_grad_()
    products = torch.stack([(seed * x.detach()).sum((0, 2, 3)) for x in picked])
    (beta.softmax(0).repeat_interleave(2, 1)[:, :7] * products).sum().backward()
    torch.testing.assert_close(gate.beta.grad, beta.grad)
    for task, stream in enumerate(streams[:-1]):
        taken = (gate.winners() == task) & gate.decisions()[task]
        torch.testing.assert_close(stream.grad, seed * taken.view(7, 1, 1))


def test_every_task_wins_somewhere_at_first_and_the_generator_says_where() -> None:
    def winners(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return hard(channels=64).winners()

    assert set(winners(0).tolist()) == {0, 1, 2}
    assert torch.equal(winners(0), winners(0))
    assert not torch.equal(winners(0), winners(1))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rounding_does_not_change_who_wins(dtype: torch.dtype, sign: float) -> None:
    gate = hard(channels=64)
    with torch.no_grad():
        gate.beta.copy_(sign + 1e-6 * torch.rand_like(gate.beta))
    winners = gate.winners()
    assert not torch.equal(gate.beta.to(dtype).argmax(0).repeat_interleave(2), winners)
    assert torch.equal(gate.to(dtype).winners(), winners)
    assert torch.equal(gate.double().winners(), winners)


def test_plain_gates_draw_nothing_for_the_mix() -> None:
    def next_draw(**options: Any) -> Tensor:
        torch.manual_seed(0)
        Gate(tasks=2, channels=4, dim=1, group_size=1, gate_init=0.0, gate_init_std=1.0, **options)
        return torch.rand(1)

    torch.manual_seed(0)
    torch.empty(2, 4).normal_()
    assert torch.equal(torch.rand(1), next_draw())
    assert not torch.equal(next_draw(), next_draw(mixing="hard"))


@pytest.mark.parametrize("mixing", ["softmax", "hard"])
def test_a_gate_has_second_derivatives(mixing: Mixing) -> None:
    """A penalty on gradients needs them; the fast backward pass has operators that have none."""
    torch.manual_seed(0)
    gate = Gate(tasks=2, channels=3, dim=1, group_size=1, gate_init=0.0, gate_init_std=1.0, mixing=mixing).double()
    streams = [torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    # The decisions are steps, whose straight-through gradient is no derivative, so only streams are checked.
    assert torch.autograd.gradgradcheck(lambda *x: gate(*x), streams)
    inputs = [gate.alpha, gate.beta, *streams]
    loss = torch.stack([y.sin().sum() for y in gate(*streams)]).sum()
    fast = torch.autograd.grad(loss, inputs, retain_graph=True)
    differentiable = torch.autograd.grad(loss, inputs, create_graph=True)
    for expected, found in zip(fast, differentiable, strict=True):
        torch.testing.assert_close(found, expected)
