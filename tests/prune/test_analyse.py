"""The analysis: rules found once, numbering forwards, need backwards."""

import pytest
import torch
from torch import Tensor, nn

from gate2static.gates.model import gate_decisions
from gate2static.prune.rules import Dense
from gate2static.prune.rules.broadcast_map import BroadcastMap
from gate2static.prune.rules.gate import GateRule
from tests.prune.rules.toys import VIEWS, After, Toy, bits, make_toy


def _residual(x: Tensor) -> Tensor:
    return x + x.flip(1)


@pytest.fixture(scope="module")
def toy() -> Toy:
    """A residual operator between two layers."""
    return make_toy(After(_residual, nn.Conv2d(4, 4, 1)), {"last": ("1000", "1000")})


def test_every_node_but_the_output_has_a_rule_in_program_order(toy: Toy) -> None:
    nodes = [node for node in toy.gated.program.graph.nodes if node.op != "output"]
    assert list(toy.analysis.rules) == nodes
    assert [type(rule).__name__ for rule in toy.analysis.rules.values()] == [
        "Placeholder", "Dense", "GateRule", "Rearrange", "BroadcastMap", "Dense", "GateRule",
        "TakeStream", "Identity", "TakeStream", "Identity",
    ]  # fmt: skip
    assert {task: node.name for task, node in toy.analysis.outputs.items()} == {"a": "heads_a", "b": "heads_b"}


def test_numbers_follow_from_the_decisions_that_are_asked_about(toy: Toy) -> None:
    gate = toy.rules(GateRule)[0].node
    decisions = gate_decisions(toy.gated)
    assert toy.analysis.number(decisions)[gate].views.tolist() == VIEWS
    shared = {unit: torch.zeros_like(decision) for unit, decision in decisions.items()}
    assert toy.analysis.number(shared)[gate].views.tolist() == [[8, 9, 10, 11]] * 3


def test_need_goes_backwards_and_adds_up_over_the_readers(toy: Toy) -> None:
    gates = {unit: decision.double() for unit, decision in gate_decisions(toy.gated).items()}
    needs = toy.analysis.need(gates)
    first, last = (layer.node for layer in toy.rules(Dense))
    # Both tasks take their own first channel, and the other three of the shared stream.
    assert bits(needs[last]) == ["1000", "1000", "0111"]
    assert bits(needs[toy.rules(GateRule)[0].node]) == ["1111"] * 3
    assert bits(needs[first]) == ["1100", "1010", "0111"]


def test_blind_nodes_read_nothing(toy: Toy) -> None:
    gates = {unit: decision.double() for unit, decision in gate_decisions(toy.gated).items()}
    needs = toy.analysis.need(gates, blind=[toy.rule(BroadcastMap).node])
    assert bits(needs[toy.rule(BroadcastMap).node]) == ["1111"] * 3
    assert bits(needs[toy.rules(Dense)[0].node]) == ["0000"] * 3


def test_macs_are_those_of_the_needed_channels(toy: Toy) -> None:
    first = 3 * 36  # of each channel: 3 products at 6 · 6 positions
    last = 4 * 36
    # Of `first` 0 1 of a, 4 6 of b and 9 10 11 of the shared stream; of `last` one of each task and three shared ones.
    assert int(toy.analysis.macs(gate_decisions(toy.gated))) == 7 * first + 5 * last
    assert toy.analysis.macs_of_constant_gates(specific=False) == 4 * first + 4 * last
    assert toy.analysis.macs_of_constant_gates(specific=True) == 2 * (4 * first + 4 * last)


def test_macs_of_probabilities_are_expected_ones() -> None:
    # One layer: a task's own channel is needed with the probability p of its gate, and the shared one where either
    # task is without: 1 - p².
    toy = make_toy(After(torch.relu))
    quarter = torch.full((2, 4), 0.25, dtype=torch.float64)
    macs = toy.analysis.macs(gate_decisions(toy.gated), {"first": quarter})
    assert float(macs) == 4 * (0.25 + 0.25 + 0.9375) * 3 * 36
