"""`expected_macs` with an alignment, and of recurrent layers."""

import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import PruneError
from tests import zoo


@pytest.mark.parametrize("align", [1, 4, 8])
@pytest.mark.parametrize("name", ["two_scales", "many_rules"])
def test_an_aligned_network_costs_what_was_expected(name: str, align: int) -> None:
    """The alignment used to be left out, which was 5 to 28 % below the manifest."""
    gated, _ = zoo.make_gated(name, tasks=3)
    assert int(g2s.expected_macs(gated, align=align)) == g2s.prune(gated, align=align).manifest.macs.static


def test_while_training_the_expectation_approaches_the_aligned_count() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2)
    exact = float(g2s.expected_macs(gated.eval(), align=4))
    gated.train()
    expected = g2s.expected_macs(gated, align=4)
    expected.backward()
    assert any(gate.alpha.grad.abs().sum() > 0 for gate in gated.gates.values())
    with torch.no_grad():
        for gate in gated.gates.values():
            gate.alpha.mul_(60.0)
    assert float(g2s.expected_macs(gated, align=4).detach()) == pytest.approx(exact, rel=1e-6)


def test_an_impossible_alignment_is_refused() -> None:
    gated, _ = zoo.make_gated("two_scales", tasks=2)
    with pytest.raises(PruneError, match="align, the number of channels, is 0"):
        g2s.expected_macs(gated, align=0)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.recurrent = kind(6, 8, num_layers=2, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(self.first(x))[0]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_every_step(kind: type[nn.RNNBase], bidirectional: bool) -> None:
    """An LSTM used to count nothing: each of its matrices multiplies a vector at every step."""
    steps = 5
    backbone = Recurrent(kind, bidirectional)
    head = nn.Linear(16 if bidirectional else 8, 2)
    gated = g2s.gate(
        backbone, tasks=["a"], example_inputs=(torch.randn(2, steps, 4),), heads={"a": head}
    ).eval()
    g2s.set_gates(gated, True)
    matrices = [p for p in (*backbone.parameters(), *head.parameters()) if p.dim() == 2]
    assert int(g2s.expected_macs(gated)) == steps * sum(p.numel() for p in matrices)
