"""Training data that is augmented anew in every epoch, equally for any number of workers and after a resume."""

from collections.abc import Callable, Sized
from typing import cast

import numpy as np
import torch
from torch.utils.data import Dataset

from gate2static.data.contract import Sample

Augment = Callable[[Sample, torch.Generator], Sample]


class Augmented(Dataset[Sample]):
    """A data set with random augmentation, which depends on seed, epoch and index only.

    The training loop calls `set_epoch` before workers are started, as for torch's `DistributedSampler`.

    Args:
        base: The data set to augment; it must support indices and `len`.
        augment: Maps a sample and a random generator to an augmented sample.
        seed: The seed of the augmentation.
    """

    def __init__(self, base: Dataset[Sample], augment: Augment, seed: int = 0) -> None:
        self.base = base
        self.augment = augment
        self.seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that samples are augmented for."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(cast(Sized, self.base))

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        # torch's CPU generator takes 32 bits of a seed, so seed, epoch and index are hashed.
        words = np.random.SeedSequence((self.seed, self._epoch, index)).generate_state(1)
        return self.augment(self.base[index], torch.Generator().manual_seed(int(words[0])))


def with_augmentation(data: Dataset[Sample], augment: Augment, *, enabled: bool, seed: int) -> Dataset[Sample]:
    """Returns training data that is augmented, where that is enabled, and the data itself where it is not."""
    return Augmented(data, augment, seed) if enabled else data
