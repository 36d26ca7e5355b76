"""What the two analyses are written in: numbers of physical channels, and needs of channels.

*Numbering* gives every base value a pool of physical channels and each stream a view, an index vector into that pool:
streams whose views name the same pool channel share it. *Need* says which channels of which streams are wanted. It is
exact for 0 and 1 and accepts probabilities, with products for "and" and complements for "or", which is what makes the
cost differentiable.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gate2static.graphs import Ids

Decisions = Mapping[str, Tensor]
"""Unit -> (T, C) bool, True where a task takes its own channel."""


@dataclass(frozen=True)
class Numbering:
    """The pool of one value.

    Attributes:
        views: (S, C) pool channel that each stream reads as its channel c.
        size: number of channels in the pool, live or not.
        rows: (size, k) what each pool channel is made of; columns are the maker's own.
    """

    views: Ids
    size: int
    rows: Ids | None = None


def own_channels(streams: int, channels: int) -> Numbering:
    """Every channel of every stream is its own: stream s has s·C … s·C+C-1."""
    return Numbering(np.arange(streams * channels).reshape(streams, channels), streams * channels)


def unique_rows(rows: Ids) -> Numbering:
    """A pool of the distinct rows of an array (S, C, k)."""
    distinct, inverse = np.unique(rows.reshape(-1, rows.shape[2]), axis=0, return_inverse=True)
    return Numbering(inverse.reshape(rows.shape[:2]).astype(np.int64), len(distinct), distinct)


def either(a: Tensor, b: Tensor) -> Tensor:
    """Probability of a or b; exact for 0 and 1."""
    return a + b - a * b


def any_of(need: Tensor, dim: int) -> Tensor:
    """Probability that at least one along `dim` is needed, keeping the dimension; exact for 0 and 1."""
    return 1 - (1 - need).prod(dim, keepdim=True)


def any_reader(need: Tensor, views: Ids, size: int) -> Tensor:
    """Need (S, C) of what the views name -> need (size,) of each pool channel: that of any who reads it."""
    index = torch.from_numpy(views).to(need.device).reshape(-1)
    unneeded = torch.ones(size, dtype=need.dtype, device=need.device)
    return 1 - unneeded.scatter_reduce(0, index, (1 - need).reshape(-1), "prod")


def readers(numbering: Numbering, need: Tensor) -> Ids:
    """Who needs each pool channel: bit s stands for stream s, of a 0/1 need (S, C)."""
    found = np.zeros(numbering.size, dtype=np.int64)
    for stream, needed in enumerate((need > 0).cpu().numpy()):
        np.bitwise_or.at(found, numbering.views[stream][needed], 1 << stream)
    return found
