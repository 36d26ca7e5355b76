"""`with_groups`: smaller groups decide as before, larger ones by the mean of their channels."""

import copy

import pytest
import torch
from torch import nn

import gate2static as g2s
from gate2static.errors import GateError

CHANNELS = 10


class Residual(nn.Module):
    """Two layers whose channels are added."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu()
        return y + self.second(y)


def gated(**options: object) -> g2s.GatedModel:
    torch.manual_seed(0)
    heads = {task: nn.Conv2d(CHANNELS, 2, 1) for task in ("a", "b")}
    x = torch.randn(2, 3, 6, 6)
    network = g2s.gate(Residual(), tasks=["a", "b"], example_inputs=(x,), heads=heads, gate_init_std=1.0, **options)
    with torch.no_grad():
        for parameter in g2s.gate_parameters(network):
            parameter.normal_()
    return network.eval()


@pytest.mark.parametrize("options", [{}, {"mixing": "hard"}, {"mixing": "hard", "tie_residual": True}], ids=str)
@pytest.mark.parametrize(("old", "new"), [(4, 2), (4, 1), ("layer", 3), (6, 3)])
def test_groups_that_divide_the_old_ones_change_nothing(options: dict, old: int | str, new: int) -> None:
    network, x = gated(group_size=old, **options), torch.randn(2, 3, 6, 6)
    before = copy.deepcopy(network.state_dict())
    finer = g2s.with_groups(network, new)
    assert all(torch.equal(a, b) for a, b in zip(network(x).values(), finer(x).values(), strict=True))
    assert finer.gates["second"].alpha.shape == (2, -(-CHANNELS // new))
    assert (finer.gates["first"].alpha is finer.gates["second"].alpha) == ("tie_residual" in options)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    back = g2s.with_groups(finer, old)
    assert torch.allclose(back.gates["first"].alpha, network.gates["first"].alpha)


def test_larger_groups_take_the_mean_of_their_logits() -> None:
    network = gated(group_size=1)
    gate = network.gates["first"]
    with torch.no_grad():
        gate.alpha[0, :4] = torch.tensor([-1.0, -1.0, -1.0, 5.0])
        gate.alpha[0, 8:] = torch.tensor([1.0, -2.0])
    coarse = g2s.with_groups(network, 4)
    assert coarse.gates["first"].alpha[0, [0, 2]].tolist() == [0.5, -0.5]
    assert coarse.gates["first"].decisions()[0, [0, 3, 8, 9]].tolist() == [True, True, False, False]
    assert torch.equal(coarse.gates["first"].beta, gate.beta)  # the softmax has a β per channel
    assert g2s.verify(coarse, g2s.prune(coarse)).passed


def test_frozen_gates_stay_frozen_and_the_network_trains() -> None:
    network = gated(group_size=2).train()
    network.gates["first"].alpha.requires_grad_(False)
    coarse = g2s.with_groups(network, "layer")
    sum(output.square().mean() for output in coarse(torch.randn(2, 3, 6, 6)).values()).backward()
    assert coarse.gates["first"].alpha.grad is None
    assert coarse.gates["second"].alpha.grad.shape == (2, 1)


@pytest.mark.parametrize("size", [0, 2.0, "all"])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(GateError, match='group_size, a number of channels or "layer"'):
        g2s.with_groups(gated(), size)
