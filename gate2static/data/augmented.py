"""Training data that is drawn anew in every epoch, the same for any number of workers and after a resume."""

from collections.abc import Callable, Sized
from typing import cast

import numpy as np
import torch
from torch.utils.data import Dataset

from gate2static.data.contract import Sample

Augment = Callable[[Sample, torch.Generator], Sample]


class Augmented(Dataset[Sample]):
    """`augment` on every sample of `base`, its randomness a function of seed, epoch and index alone.

    Whoever iterates calls `set_epoch` before workers are started, as for torch's `DistributedSampler`.
    """

    def __init__(self, base: Dataset[Sample], augment: Augment, seed: int = 0) -> None:
        """`base` must be indexable and know its length."""
        self.base, self.augment, self.seed = base, augment, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """From here on samples are drawn for this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(cast(Sized, self.base))

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        # torch's CPU generator takes 32 bits of a seed, so neighbouring seeds and epochs have to be hashed into them.
        words = np.random.SeedSequence((self.seed, self._epoch, index)).generate_state(1)
        return self.augment(self.base[index], torch.Generator().manual_seed(int(words[0])))
