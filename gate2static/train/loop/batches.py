"""Which images each step sees: a function of the seed and the epoch, so a resumed run sees what it would have seen."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from gate2static.data import Sample
from gate2static.errors import RecipeError, TrainingError
from gate2static.train.processes.devices import original_error

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Batch = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Share:
    """Which part of the data a process has."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, fabric: "Fabric") -> "Share":
        """The part of this process."""
        return cls(fabric.global_rank, fabric.world_size)


ALL = Share()


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as lists of indices, shuffled by seed and epoch alone.

    A last batch of a single image is left out, because batch norm cannot take one image's variance on a 1×1 map.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator).tolist()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def check_last_batch(order: list[list[int]], world_size: int, *, where: str) -> None:
    """Raises a RecipeError if the last batch has no image for some process."""
    if len(order[-1]) < world_size:
        raise RecipeError(
            f"{where}.batch_size: {len(order[0])} leaves {len(order[-1])} images for the last step of an epoch, fewer "
            f"than the {world_size} processes; change the batch size or the number of training images"
        )


def train_loader(
    data: Dataset[Sample], order: list[list[int]], *, epoch: int, share: Share = ALL, workers: int = 0
) -> DataLoader[Sample]:
    """Loads a process's share of every batch, so that all shares together are the batch for any number of processes.

    Data sets that draw anew in every epoch (`Augmented`) are told which one it is. The loader has a generator of its
    own: it draws one number when it starts, and from the global generator that would be one more for every
    interruption.
    """
    if callable(set_epoch := getattr(data, "set_epoch", None)):
        set_epoch(epoch)
    return DataLoader(
        data,
        batch_sampler=[batch[share.rank :: share.world_size] for batch in order],
        num_workers=workers,
        # Workers seed their own global generators from this one.
        generator=torch.Generator().manual_seed(epoch * share.world_size + share.rank),
    )


def evaluation_loader(
    data: Dataset[Sample], batch_size: int, *, share: Share = ALL, workers: int = 0
) -> DataLoader[Sample]:
    """Loads a process's share of everything once, in order; the last batch may be short, a share may be empty."""
    indices = range(share.rank, length(data), share.world_size)
    part = data if share == ALL else Subset(data, indices)
    return DataLoader(part, batch_size=batch_size, num_workers=workers, generator=torch.Generator())


def loaded(loader: DataLoader[Sample]) -> Iterator[Batch]:
    """A loader's batches.

    Raises:
        Gate2StaticError: What a worker raised, as one line.
        TrainingError: A worker was killed.
    """
    batches: Iterator[Any] = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            if found := original_error(error):
                raise found from None
            if "DataLoader worker" in str(error) and "exited unexpectedly" in str(error):
                raise TrainingError(
                    "a process that loads data was killed, often because memory ran out; lower training.workers or "
                    "the batch size, then go on with --resume"
                ) from error
            raise
        yield batch


def length(data: Dataset[Sample]) -> int:
    """How many samples a data set holds."""
    return len(cast(Sized, data))
