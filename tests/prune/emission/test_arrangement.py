"""Arrangement: the order of channels, and how they are cut into tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import fx

from gate2static.graphs import Ids
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.emission.arrangement import Arrangement
from gate2static.prune.emission.layout import LAYOUT, PLAIN, Layout
from gate2static.prune.emission.parts import Part, Parts
from tests.prune.rules.toys import VIEWS, make_value, needed

GATE = make_value((2, 4, 6, 6), (1,), "gate")
LAYER = make_value((2, 4, 6, 6), (1,), "layer")
LIVE = np.array([0, 1, 4, 6, 9, 10, 11])
"""The channels that tasks a and b read: a alone 0 1 10, both 11, b alone 4 6 9."""


def _arrangement(layout: Layout = LAYOUT, blocks: Mapping[fx.Node, Ids] | None = None) -> Arrangement:
    """An arrangement of a layer and its gate, of which the tasks' streams are needed and the shared one is not."""
    return Arrangement(
        layout,
        numberings={GATE.node: Numbering(np.array(VIEWS), 16), LAYER.node: Numbering(np.arange(12).reshape(3, 4), 12)},
        needs={GATE.node: needed("1111", "1111", "0000"), LAYER.node: needed("1100", "1010", "0111")},
        blocks=blocks or {},
        unit_ends={LAYER.node: GATE.node},
    )


def _parts(*held: Sequence[int]) -> Parts:
    return Parts(tuple(Part(str(ids), np.array(ids)) for ids in held), 1)


def _lists(cut: Sequence[Ids]) -> list[list[int]]:
    return [ids.tolist() for ids in cut]


def test_channels_are_sorted_by_who_reads_them() -> None:
    assert _arrangement().order(GATE, LIVE).tolist() == [0, 1, 10, 11, 4, 6, 9]


def test_channels_of_a_layer_are_sorted_by_who_reads_its_gate() -> None:
    assert _arrangement().order(LAYER, LIVE).tolist() == [0, 1, 10, 11, 4, 6, 9]


def test_where_moves_become_convolutions_channels_stay_in_canonical_order() -> None:
    order = _arrangement(replace(PLAIN, convolve_moves=True)).order(GATE, LIVE[::-1])
    assert order.tolist() == sorted(LIVE)


def test_neighbouring_sets_of_three_readers_differ_in_one() -> None:
    # Channel k is read by the streams whose bits k has: 1 by stream 0, 2 by stream 1, 3 by both, and so on.
    views = np.tile(np.arange(8), (3, 1))
    need = needed("01010101", "00110011", "00001111")
    arrangement = Arrangement(
        LAYOUT, numberings={GATE.node: Numbering(views, 8)}, needs={GATE.node: need}, blocks={}, unit_ends={}
    )
    order = arrangement.order(GATE, np.arange(8))
    assert order.tolist() == [0b000, 0b001, 0b011, 0b010, 0b110, 0b111, 0b101, 0b100]  # a Gray code


def test_positions_are_sorted_as_the_tensors_hold_the_channels() -> None:
    parts = _parts([6, 4], [9, 11])
    assert _arrangement().sorted_positions(parts, np.array([4, 9, 6, 11])).tolist() == [2, 0, 1, 3]  # 6 4 9 11
    # Streams that are put together hold some channels twice; a tensor that holds exactly what is asked for is read.
    overlapping = _parts([6, 4], [6, 7])
    assert _arrangement().sorted_positions(overlapping, np.array([6, 4])).tolist() == [0, 1]


def test_channels_are_cut_where_the_readers_change() -> None:
    arrangement = _arrangement()
    assert _lists(arrangement.by_readers(GATE, arrangement.order(GATE, LIVE))) == [[0, 1, 10], [11], [4, 6, 9]]


def test_streams_are_put_together_as_they_read_and_equal_ones_once() -> None:
    assert _lists(_arrangement().by_streams(GATE)) == [[0, 1, 10, 11], [4, 9, 6, 11]]
    same = Arrangement(
        LAYOUT,
        numberings={GATE.node: Numbering(np.array([[2, 0]] * 3), 3)},
        needs={GATE.node: needed("11", "11", "00")},
        blocks={},
        unit_ends={},
    )
    assert _lists(same.by_streams(GATE)) == [[2, 0]]


def test_channels_are_cut_into_blocks_where_their_layer_has_some() -> None:
    labels = np.array([0, 0, -1, -1, 1, -1, 1, -1, -1, 1, 0, 2])
    arrangement = _arrangement(blocks={LAYER.node: labels})
    assert _lists(arrangement.in_blocks(LAYER, LIVE)) == [[0, 1, 10], [4, 6, 9], [11]]
    assert _lists(arrangement.in_blocks(GATE, LIVE)) == [LIVE.tolist()]  # the gate has none


def test_a_value_is_cut_as_its_source_is_but_tensors_of_the_same_readers_are_put_together() -> None:
    parts = _parts([0, 1], [10], [11], [4, 6, 5], [8])
    assert _lists(_arrangement().by_parts(GATE, parts, LIVE)) == [[0, 1, 10], [11], [4, 6]]  # nobody wants 5 and 8
    # Where streams are put together anyway, every tensor that holds anything wanted stays as it is.
    assert _lists(_arrangement(PLAIN).by_parts(GATE, parts, LIVE)) == [[0, 1], [10], [11], [4, 6, 5]]
