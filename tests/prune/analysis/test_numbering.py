"""Numberings: which channels of which streams are one physical channel."""

import numpy as np

from gate2static.prune.analysis.numbering import one_value, own_channels, unique_rows


def test_own_channels_are_numbered_stream_by_stream() -> None:
    numbering = own_channels(3, 4)
    assert numbering.views.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert numbering.size == 12


def test_one_value_is_read_by_all_streams() -> None:
    numbering = one_value(3)
    assert numbering.views.tolist() == [[0], [0], [0]]
    assert numbering.size == 1


def test_equal_rows_are_one_channel_and_the_rows_are_its_sources() -> None:
    rows = np.array([  # (streams, channels, operands)
        [[0, 7], [1, 8]],
        [[0, 7], [2, 8]],  # the first channel is made of the same as the first stream's
    ])  # fmt: skip
    numbering = unique_rows(rows)
    assert numbering.views.tolist() == [[0, 1], [0, 2]]
    assert numbering.sources is not None
    assert numbering.sources.tolist() == [[0, 7], [1, 8], [2, 8]]
    assert numbering.size == 3
