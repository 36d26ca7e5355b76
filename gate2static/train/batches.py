"""Which images each step sees: a function of the seed and the epoch, so a resumed run sees what it would have seen."""

from collections.abc import Sized
from typing import cast

import torch
from torch.utils.data import DataLoader, Dataset

from gate2static.data import Sample


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as lists of indices, shuffled by seed and epoch alone.

    A last batch of a single image is left out, because batch norm cannot take one image's variance on a 1×1 map.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator).tolist()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def train_loader(data: Dataset[Sample], order: list[list[int]], *, skip: int = 0) -> DataLoader[Sample]:
    """Loads an epoch's batches, from the one after `skip`.

    It has a generator of its own: a loader draws one number when it starts, and from the global generator that would
    be one more for every interruption.
    """
    return DataLoader(data, batch_sampler=order[skip:], generator=torch.Generator())


def test_loader(data: Dataset[Sample], batch_size: int) -> DataLoader[Sample]:
    """Loads everything once, in order; the last batch may be short."""
    return DataLoader(data, batch_size=batch_size, generator=torch.Generator())


def length(data: Dataset[Sample]) -> int:
    """How many samples a data set holds."""
    return len(cast(Sized, data))
