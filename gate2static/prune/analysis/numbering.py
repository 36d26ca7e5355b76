"""Value numbering: which channels of which streams are one and the same physical channel.

A *numbering* gives every value of the backbone a pool of physical channels, and each stream a *view*: an index vector
into that pool. Two streams share a channel where their views name the same channel of the pool.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gate2static.graphs import Ids

Decisions = Mapping[str, Tensor]
"""Unit -> (T, C) bool, True where a task takes its own channel."""


@dataclass(frozen=True)
class Numbering:
    """The pool of one value.

    Attributes:
        views: (S, C) The pool channel that each stream reads as its channel c.
        size: The number of channels in the pool, needed or not.
        sources: (size, k) What each pool channel is made of; the rule that made the numbering says what its columns
            are.
    """

    views: Ids
    size: int
    sources: Ids | None = None


def own_channels(streams: int, channels: int) -> Numbering:
    """Numbers every channel of every stream as one of its own: stream s has s·C … s·C+C-1."""
    return Numbering(np.arange(streams * channels).reshape(streams, channels), streams * channels)


def one_value(streams: int) -> Numbering:
    """Numbers an opaque value that is the same for all streams."""
    return Numbering(np.zeros((streams, 1), dtype=np.int64), 1)


def unique_rows(rows: Ids) -> Numbering:
    """Makes one pool channel of every distinct row of `rows` (S, C, k), which become the pool's sources."""
    # (S · C, k) -> the distinct rows, sorted, and the number of each row among them
    distinct, inverse = np.unique(rows.reshape(-1, rows.shape[2]), axis=0, return_inverse=True)
    views = inverse.reshape(rows.shape[:2]).astype(np.int64)
    return Numbering(views, len(distinct), distinct)
