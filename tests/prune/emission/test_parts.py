"""Parts: the emitted tensors that hold the channels of a value."""

import numpy as np
import pytest

from gate2static.errors import PruneError
from gate2static.prune.emission.parts import Part, Parts

PARTS = Parts((Part("first", np.array([4, 0])), Part("second", np.array([9]))), dim=1)
"""Channels 4 and 0, in this order, in one tensor, and channel 9 in another."""


def test_a_channel_has_a_part_and_a_position_in_it() -> None:
    numbers, positions = PARTS.place(np.array([0, 9, 4]))
    assert numbers.tolist() == [0, 1, 0]
    assert positions.tolist() == [1, 0, 0]


def test_a_channel_that_was_not_emitted_has_no_part() -> None:
    assert PARTS.place(np.array([0, 1, 99]))[0].tolist() == [0, -1, -1]
    assert PARTS.hold(np.array([0, 1, 9, 99])).tolist() == [True, False, True, False]


def test_one_tensor_holds_channels_only_in_its_own_order() -> None:
    assert PARTS.hold_as_one(np.array([4, 0]))
    assert not PARTS.hold_as_one(np.array([0, 4]))
    assert not PARTS.hold_as_one(np.array([4]))


def test_an_opaque_value_is_the_tensor_of_its_number() -> None:
    values = Parts((Part("a", np.array([0])), Part("b", np.array([2]))), dim=None)
    assert values.whole(2) == "b"
    with pytest.raises(PruneError, match="value 1 is read and was not computed"):
        values.whole(1)
