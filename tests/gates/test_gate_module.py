"""The gate of one unit: eq. 2 and 3, and their gradients."""

import pytest
import torch
from torch import Tensor

from gate2static.gates import gating
from gate2static.gates.gating import Gate, _SelectAndMix


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
    """papers/README reading 1: raw features of a closed gate must not reach the shared stream."""
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
