"""Channel accesses: the same value read along other dimensions has other channels."""

import numpy as np
import pytest

from gate2static.prune.analysis.channel_access import Coarse, Fine, Same, Whole, access, access_broadcast
from gate2static.prune.analysis.channel_dims import Dims
from gate2static.prune.analysis.numbering import Numbering, one_value
from tests.prune.rules.toys import VIEWS, bits, make_value, needed

OF_VALUE = Numbering(np.array(VIEWS), 16)
IMAGE = make_value((2, 4, 6, 6), (1,))
TOKENS = make_value((2, 3, 4), (2,))
HEADS = make_value((2, 2, 5, 2), (1, 3))  # (N, heads, L, C / heads): two heads of two channels
OPAQUE = make_value((2, 4, 6, 6), None)


@pytest.mark.parametrize(
    ("value", "dims", "kind"),
    [
        (IMAGE, (1,), Same),
        (HEADS, (1,), Coarse),  # a head is all that lies along the other dimension
        (TOKENS, (1, 2), Fine),  # a channel becomes three, one per token
        (IMAGE, (), Whole),
        (IMAGE, (2,), Whole),  # rows of an image are no channels of it
        (OPAQUE, (1,), Whole),
    ],
)
def test_the_dimensions_decide_how_a_value_is_read(value: object, dims: Dims, kind: type) -> None:
    assert type(access(value, dims)) is kind  # type: ignore[arg-type]


def test_same_reads_the_values_own_channels() -> None:
    same = access(IMAGE, (1,))
    assert same.numbering(OF_VALUE) is OF_VALUE
    assert bits(same.need_of_value(needed("1000", "0000", "0001"))) == ["1000", "0000", "0001"]


def test_coarse_reads_channels_that_go_together() -> None:
    heads = access(HEADS, (1,))
    assert isinstance(heads, Coarse)
    assert heads.members().tolist() == [[0, 1], [2, 3]]  # (heads, channels of one)
    # Numbered as they sort: 0 is (0 1), 1 is (4 9), 2 is (6 11), 3 is (10 11), 4 is (12 13), 5 is (14 11).
    assert heads.numbering(OF_VALUE).views.tolist() == [[0, 3], [1, 2], [4, 5]]
    assert bits(heads.need_of_value(needed("10", "00", "01"))) == ["1100", "0000", "0011"]


def test_coarse_along_the_inner_dimension_reads_across_heads() -> None:
    columns = access(HEADS, (3,))
    assert isinstance(columns, Coarse)
    assert columns.members().tolist() == [[0, 2], [1, 3]]
    assert bits(columns.need_of_value(needed("10", "00", "01"))) == ["1010", "0000", "0101"]


def test_fine_reads_every_place_of_a_channel_as_a_channel() -> None:
    places = access(TOKENS, (1, 2))
    assert places.channels == 3 * 4
    # Channel k of the pool becomes 3 · k, 3 · k + 1 and 3 · k + 2, one per token; tokens are the outer dimension.
    of_a = [0, 3, 30, 33]
    assert places.numbering(OF_VALUE).views[0].tolist() == [*of_a, *(c + 1 for c in of_a), *(c + 2 for c in of_a)]
    # The second channel of the last token, and nothing else of the first stream.
    assert bits(places.need_of_value(needed("000000000100", "0" * 12, "1" * 12))) == ["0100", "0000", "1111"]


def test_whole_reads_each_distinct_value() -> None:
    assert access(IMAGE).numbering(OF_VALUE).views.tolist() == [[0], [1], [2]]
    rows = access(IMAGE, (2,))  # six rows of each
    assert rows.numbering(OF_VALUE).views[1].tolist() == [6, 7, 8, 9, 10, 11]
    assert bits(rows.need_of_value(needed("010000", "000000", "000000"))) == ["1111", "0000", "0000"]


def test_whole_finds_channels_in_an_opaque_value_that_all_streams_have() -> None:
    channels = access(OPAQUE, (1,))
    assert channels.numbering(one_value(3)).views.tolist() == [[0, 1, 2, 3]] * 3
    assert bits(channels.need_of_value(needed("0100", "0000", "0001"))) == ["1", "0", "1"]


@pytest.mark.parametrize(
    ("shape", "dims", "kind", "channels"),
    [
        ((2, 4, 1, 1), (1,), Same, [0, 1, 2, 3]),  # a weight per channel
        ((2, 1, 6, 6), (1,), Whole, [0, 0, 0, 0]),  # a map for all channels: along `dims` it has one
        ((4, 1, 1), (0,), Same, [0, 1, 2, 3]),  # without a batch, lined up from the right
        ((6, 6), None, Whole, [0, 0, 0, 0]),
    ],
)
def test_an_operand_is_read_as_broadcasting_lines_it_up(
    shape: tuple[int, ...], dims: Dims | None, kind: type, channels: list[int]
) -> None:
    reads, of_result = access_broadcast(make_value(shape, dims), (2, 4, 6, 6), (1,), (1,))
    assert type(reads) is kind
    assert of_result.tolist() == channels


def test_an_operand_without_one_of_the_dimensions_repeats_along_it() -> None:
    per_head = make_value((2, 2, 1, 1), (1,))
    _, of_result = access_broadcast(per_head, (2, 2, 5, 2), (1, 3), (1, 3))
    assert of_result.tolist() == [0, 0, 1, 1]  # both channels of a head read the head's number
