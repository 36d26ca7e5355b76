"""Blocks: channels that stay together from the layer that makes them to every layer that reads them."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, fx

from gate2static.prune.analysis.numbering import Numbering, own_channels
from gate2static.prune.emission.blocks import blocks
from tests.prune.rules.toys import needed

Read = tuple[fx.Node, Sequence[int]]
GRAPH = fx.Graph()
LAYER, GATE, OTHER, TOTAL = (GRAPH.placeholder(name) for name in ("layer", "gate", "other", "total"))


class Program:
    """Nodes whose blocks are asked for, made one by one."""

    def __init__(self) -> None:
        self.origins: dict[fx.Node, list[tuple[fx.Node, np.ndarray]]] = {}
        self.numberings: dict[fx.Node, Numbering] = {}
        self.needs: dict[fx.Node, Tensor] = {}

    def add(self, node: fx.Node, numbering: Numbering, need: Sequence[str], *reads: Read) -> None:
        """Adds a node; each of `reads` is a source with, for each pool channel, the channel of the source."""
        self.origins[node] = [(source, np.array(ids)) for source, ids in reads]
        self.numberings[node] = numbering
        self.needs[node] = needed(*need)

    def blocks(self, min_channels: int = 1) -> dict[fx.Node, list[list[int]]]:
        """Returns the blocks of each node that is cut, as lists of pool channels."""
        labels = blocks(
            self.origins,
            channels={node: numbering.views.shape[1] for node, numbering in self.numberings.items()},
            numberings=self.numberings,
            needs=self.needs,
            live={node: np.unique(n.views[self.needs[node].numpy() > 0]) for node, n in self.numberings.items()},
            min_channels=min_channels,
        )
        return {node: _members(of_node) for node, of_node in labels.items()}


def _members(labels: np.ndarray) -> list[list[int]]:
    members = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels[labels >= 0])]
    return sorted(members)


def _one_stream(channels: int) -> Numbering:
    return own_channels(1, channels)


def _gated_layer() -> Program:
    """A layer of 8 channels and two tasks: a takes its own 0 to 3, b its own 4 to 7, and the shared ones otherwise."""
    program = Program()
    program.add(LAYER, own_channels(3, 8), ("11110000", "00001111", "11111111"))
    # The layer's pool has 0-7 (a), 8-15 (b) and 16-23 (shared). Nobody needs the mix, 24-31.
    of_a = [*range(4), *range(20, 24)]
    of_b = [*range(16, 20), *range(12, 16)]
    gate = Numbering(np.array([of_a, of_b, list(range(24, 32))]), 32)
    picks = [(LAYER, [*range(24), *pick]) for pick in (of_a, of_b)]
    program.add(GATE, gate, ("11111111", "11111111", "00000000"), *picks)
    return program


def test_a_gate_cuts_its_layer_by_maker_and_reader() -> None:
    four = [[0, 1, 2, 3], [12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert _gated_layer().blocks() == {LAYER: four, GATE: four}


def test_nodes_whose_blocks_are_narrower_on_average_are_left_whole() -> None:
    assert set(_gated_layer().blocks(min_channels=4)) == {LAYER, GATE}
    assert _gated_layer().blocks(min_channels=5) == {}


def test_a_cut_goes_through_operators_that_work_channel_by_channel() -> None:
    program = Program()
    program.add(LAYER, _one_stream(4), ["1111"])
    program.add(OTHER, _one_stream(4), ["1111"])
    program.add(TOTAL, _one_stream(4), ["1111"], (LAYER, [0, 1, 2, 3]), (OTHER, [0, 1, 2, 3]))
    assert program.blocks() == {node: [[0, 1, 2, 3]] for node in (LAYER, OTHER, TOTAL)}
    # Somebody reads channels 1 and 2 of one operand, which have to be a block: so they are in the sum and in the other.
    program.add(GATE, _one_stream(2), ["11"], (OTHER, [1, 2]))
    cut = program.blocks()
    assert cut[OTHER] == cut[TOTAL] == cut[LAYER] == [[0, 3], [1, 2]]


def test_nodes_that_do_not_depend_on_each_other_are_judged_apart() -> None:
    program = Program()
    program.add(LAYER, _one_stream(4), ["1111"])
    program.add(OTHER, _one_stream(4), ["1111"])
    program.add(GATE, _one_stream(1), ["1"], (OTHER, [2]))
    assert program.blocks(min_channels=3) == {LAYER: [[0, 1, 2, 3]]}  # the other three are 3 channels a block


def test_dead_channels_are_in_no_block() -> None:
    program = Program()
    program.add(LAYER, _one_stream(4), ["0110"])
    assert program.blocks() == {LAYER: [[1, 2]]}
