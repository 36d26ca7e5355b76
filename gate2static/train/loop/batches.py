"""The images of each step: a function of seed and epoch, so that a resumed run sees the same batches."""

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
"""Images (N, C, H, W) and targets by task."""


@dataclass(frozen=True)
class Share:
    """The part of the data that one process loads.

    Attributes:
        rank: The process's number, from 0.
        world_size: The number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, fabric: "Fabric") -> "Share":
        """Returns this process's share."""
        return cls(fabric.global_rank, fabric.world_size)


ALL = Share()
"""The share of a process that is alone."""


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Returns the batches of one epoch as lists of indices, shuffled by seed and epoch alone.

    A last batch of a single image is left out, because batch norm cannot take the variance of one image of 1×1.

    Args:
        count: The number of training images.
        batch_size: Images per batch.
        seed: The recipe's seed.
        epoch: Epochs that are complete.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(count, generator=generator).tolist()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def held_out(count: int, share: float, *, seed: int) -> tuple[list[int], list[int]]:
    """Divides the training images into those that networks are trained on and those that are held out.

    Args:
        count: The number of training images.
        share: The share to hold out; each part gets one image at least.
        seed: The recipe's seed, on which the division depends alone.

    Returns:
        The indices of both parts, in the order of the data set.
    """
    # Not the permutation of an epoch: what is held out must not depend on it.
    generator = torch.Generator().manual_seed((seed + 1_000_003) * 7 % 2**63)
    order = torch.randperm(count, generator=generator).tolist()
    size = min(count - 1, max(1, round(share * count)))
    return sorted(order[size:]), sorted(order[:size])


def cycled(indices: list[int], batch_size: int, *, seed: int, epoch: int, steps: int) -> list[list[int]]:
    """Returns one batch of these images per step of an epoch; passes over them go on where an epoch ends.

    Args:
        indices: The images.
        batch_size: Images per batch.
        seed: The recipe's seed.
        epoch: Epochs that are complete.
        steps: Steps per epoch.
    """
    per_pass = len(epoch_order(len(indices), batch_size, seed=seed, epoch=0))
    chosen = []
    for number in range(epoch * steps, (epoch + 1) * steps):
        batches_of_pass = epoch_order(len(indices), batch_size, seed=seed, epoch=number // per_pass)
        chosen.append([indices[index] for index in batches_of_pass[number % per_pass]])
    return chosen


def check_last_batch(order: list[list[int]], world_size: int, *, where: str) -> None:
    """Raises a RecipeError if the last batch leaves some process without an image."""
    if len(order[-1]) < world_size:
        raise RecipeError(
            f"{where}.batch_size: {len(order[0])} leaves {len(order[-1])} images for the last step of an epoch, fewer "
            f"than the {world_size} processes; change the batch size or the number of training images"
        )


def train_loader(
    data: Dataset[Sample], order: list[list[int]], *, epoch: int, share: Share = ALL, workers: int = 0
) -> DataLoader[Sample]:
    """Returns a loader of a process's share of every batch; all shares together are the batch.

    The loader has its own generator: it draws one number when it starts, and from the global generator that would be
    one number more for every interruption.

    Args:
        data: The training images. Data sets that draw anew in every epoch (`Augmented`) are told the epoch.
        order: The indices of each batch, as of `epoch_order`.
        epoch: Epochs that are complete.
        share: The part of each batch to load.
        workers: Processes that load data; 0 loads in this process.
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
    """Returns a loader of a process's share of all images, each once and in order.

    The last batch may be short, and the share may be empty.
    """
    indices = range(share.rank, length(data), share.world_size)
    part = data if share == ALL else Subset(data, indices)
    return DataLoader(part, batch_size=batch_size, num_workers=workers, generator=torch.Generator())


def loaded(loader: DataLoader[Sample]) -> Iterator[Batch]:
    """Yields a loader's batches, and turns errors of its workers into ours.

    Raises:
        Gate2StaticError: A worker raised it; the message is one line.
        TrainingError: A worker was killed.
    """
    batches: Iterator[Any] = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            if ours := original_error(error):
                raise ours from None
            if "DataLoader worker" in str(error) and "exited unexpectedly" in str(error):
                raise TrainingError(
                    "a process that loads data was killed, often because memory ran out; lower training.workers or "
                    "the batch size, then continue with --resume"
                ) from error
            raise
        yield batch


def length(data: Dataset[Sample]) -> int:
    """Returns the number of samples in a data set."""
    return len(cast(Sized, data))
