"""`GateRule`: task streams pick, the shared stream mixes."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.prune.emission.layout import PLAIN
from gate2static.prune.rules.broadcast_map import BroadcastMap
from gate2static.prune.rules.gate import GateRule
from tests.prune.rules.toys import SHARED, VIEWS, After, Toy, calls, layers, make_toy, needed


@pytest.fixture(scope="module")
def toy() -> Toy:
    """A second layer that both tasks take from the shared stream, so that it reads the mix of `first`."""
    return make_toy(After(torch.relu, nn.Conv2d(4, 4, 1)), {"last": SHARED})


@pytest.fixture(scope="module")
def hard() -> Toy:
    """The same with a mix that takes one task's pick: b's in channels 0 and 1, a's in channels 2 and 3."""
    toy = make_toy(After(torch.relu, nn.Conv2d(4, 4, 1)), {"last": SHARED}, mixing="hard")
    with torch.no_grad():
        toy.gated.gates["first"].beta.copy_(torch.tensor([[0.0, 0, 1, 1], [1, 1, 0, 0]]))
    return toy


def _squeeze_and_excite(x: Tensor) -> Tensor:
    """What networks call a gate, too: channels times a number between 0 and 1."""
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def test_it_takes_the_gates_of_units_and_no_gating_of_the_backbones_own(toy: Toy) -> None:
    assert [rule.unit for rule in toy.rules(GateRule)] == ["first", "last"]
    gating = make_toy(After(_squeeze_and_excite))
    assert len(gating.rules(GateRule)) == 1
    assert gating.rule(BroadcastMap).node.name == "mul"


def test_a_pick_keeps_its_number_and_a_mix_of_different_picks_is_a_new_channel(toy: Toy) -> None:
    gate = toy.rules(GateRule)[0]
    assert VIEWS == toy.views(gate) == [
        [0, 1, 10, 11],  # task a takes its own channels 0 and 1, and 2 and 3 of the shared stream
        [4, 9, 6, 11],  # task b takes its own channels 0 and 2
        [12, 13, 14, 11],  # mixed, but for channel 3, where both tasks took the same
    ]
    assert toy.numbering(gate).size == 16


def test_a_hard_mix_is_the_pick_of_the_winner(hard: Toy) -> None:
    gate = hard.rules(GateRule)[0]
    assert hard.views(gate)[-1] == [4, 9, 10, 11]  # b's, b's, a's, a's
    assert hard.numbering(gate).size == 12


def test_a_pick_needs_one_stream_and_a_mix_needs_every_tasks_pick(toy: Toy) -> None:
    gate = toy.rules(GateRule)[0]
    # a needs its channel 0, which is its own; b its channel 3, which is shared. The mix of channel 1 needs both picks,
    # a's own and the shared one.
    assert toy.need_of_inputs(gate, "1000", "0001", "0100") == [["1100", "0000", "0101"]]


def test_a_hard_mix_needs_the_pick_of_the_winner_alone(hard: Toy) -> None:
    gate = hard.rules(GateRule)[0]
    assert hard.need_of_inputs(gate, "0000", "0000", "1111") == [["0000", "1000", "0111"]]


def test_probabilities_are_combined_as_independent(toy: Toy) -> None:
    half = {"first": torch.full((2, 4), 0.5, dtype=torch.float64)}
    (need,) = toy.rules(GateRule)[0].need_of_inputs(needed("0000", "0000", "1000"), half)
    # The mix needs both picks. The shared channel is one of them unless both tasks take their own: 1 - 0.5 · 0.5.
    assert need[:, 0].tolist() == [0.5, 0.5, 0.75]


def test_channels_come_from_the_pick_of_each_task(toy: Toy) -> None:
    unmixed = list(range(12))
    assert toy.origins(toy.rules(GateRule)[0]) == [(0, [*unmixed, 0, 1, 10, 11]), (0, [*unmixed, 4, 9, 6, 11])]


def test_picking_computes_nothing_and_only_different_picks_are_mixed(toy: Toy, hard: Toy) -> None:
    static = toy.static()
    arithmetic = [name for name in calls(static) if name in ("softmax", "mul", "add")]
    assert arithmetic == ["softmax", "mul", "mul", "add"]
    (beta,) = (p for name, p in static.named_parameters() if name.startswith("mixes."))
    assert torch.equal(beta, toy.gated.gates["first"].beta[:, :3])  # (tasks, mixed channels)
    assert calls(hard.static()) == ["Conv2d", "relu", "Conv2d"]


def test_channels_are_mixed_with_their_own_weights() -> None:
    # Both tasks take channel 0 of the shared stream, so channels 1, 2 and 3 are mixed.
    toy = make_toy(After(torch.relu, nn.Conv2d(4, 4, 1)), {"first": ("0011", "0101"), "last": SHARED})
    (beta,) = (p for name, p in toy.static().named_parameters() if name.startswith("mixes."))
    assert torch.equal(beta, toy.gated.gates["first"].beta[:, 1:])


def test_whole_streams_are_mixed_where_they_are_put_together_anyway(toy: Toy) -> None:
    static = toy.static(PLAIN)
    (beta,) = (p for name, p in static.named_parameters() if name.startswith("mixes."))
    assert beta.shape == (2, 4)
    assert [layer.out_channels for layer in layers(static, nn.Conv2d)] == [7, 4]
    # Of the mix, this one reads the last three channels.
    cut = make_toy(After(lambda x: x[:, 1:], nn.Conv2d(3, 4, 1)), {"last": SHARED})
    (beta,) = (p for name, p in cut.static(PLAIN).named_parameters() if name.startswith("mixes."))
    assert torch.equal(beta, cut.gated.gates["first"].beta[:, 1:])
