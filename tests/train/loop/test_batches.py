"""The order of batches, their shares among processes, and workers that fail."""

import os
import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from gate2static.data.augmented import Augmented
from gate2static.errors import DataError, RecipeError, TrainingError
from gate2static.train.loop.batches import Share, check_last_batch, epoch_order, evaluation_loader, loaded, train_loader


class Numbers(torch.utils.data.Dataset[Any]):
    """Every sample is its number; number `at` does something bad."""

    def __init__(self, count: int, *, at: int = -1, raises: Exception | None = None) -> None:
        self.count, self.at, self.raises = count, at, raises

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        if index == self.at:
            if self.raises is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise self.raises
        return torch.tensor([float(index)]), {"a": torch.tensor(index)}


def numbers(loader: Any) -> list[list[int]]:
    return [targets["a"].tolist() for _, targets in loaded(loader)]


def test_an_epoch_sees_every_image_once() -> None:
    order = epoch_order(50, 16, seed=0, epoch=0)
    assert [len(batch) for batch in order] == [16, 16, 16, 2]
    assert sorted(index for batch in order for index in batch) == list(range(50))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert epoch_order(50, 16, seed=3, epoch=4) == epoch_order(50, 16, seed=3, epoch=4)
    assert epoch_order(50, 16, seed=3, epoch=4) != epoch_order(50, 16, seed=3, epoch=5)
    assert epoch_order(50, 16, seed=3, epoch=4) != epoch_order(50, 16, seed=4, epoch=4)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    assert [len(batch) for batch in epoch_order(33, 16, seed=0, epoch=0)] == [16, 16]
    assert [len(batch) for batch in epoch_order(1, 16, seed=0, epoch=0)] == [1]


def test_the_shares_of_all_processes_are_the_batch() -> None:
    order = epoch_order(27, 8, seed=0, epoch=0)
    shares = [numbers(train_loader(Numbers(27), order, epoch=0, share=Share(rank, 3))) for rank in range(3)]
    for step, batch in enumerate(order):
        assert sorted(index for share in shares for index in share[step]) == sorted(batch)
        assert max(len(share[step]) for share in shares) - min(len(share[step]) for share in shares) <= 1


def test_evaluation_sees_every_image_once_over_all_processes() -> None:
    shares = [numbers(evaluation_loader(Numbers(5), 2, share=Share(rank, 3))) for rank in range(3)]
    assert shares == [[[0, 3]], [[1, 4]], [[2]]]
    assert numbers(evaluation_loader(Numbers(1), 2, share=Share(1, 2))) == []


def test_a_last_batch_with_fewer_images_than_processes_is_refused() -> None:
    order = epoch_order(18, 8, seed=0, epoch=0)
    check_last_batch(order, 2, where="training.shared")
    with pytest.raises(RecipeError, match=r"training\.shared\.batch_size: 8 leaves 2 images .* fewer than the 4 proc"):
        check_last_batch(order, 4, where="training.shared")


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_is_drawn_for_the_epoch_whoever_loads(workers: int) -> None:
    def draw(sample: Any, generator: torch.Generator) -> Any:
        return torch.rand(1, generator=generator), sample[1]

    def values(epoch: int, workers: int) -> list[float]:
        data = Augmented(Numbers(6), draw)
        loader = train_loader(data, [[0, 1], [2, 3]], epoch=epoch, workers=workers)
        return [value for images, _ in loaded(loader) for value in images.flatten().tolist()]

    assert values(3, workers) == values(3, 0)
    assert values(3, workers) != values(4, workers)


def test_a_worker_that_is_killed_is_one_line() -> None:
    loader = train_loader(Numbers(4, at=2), [[0, 1], [2, 3]], epoch=0, workers=1)
    with pytest.raises(TrainingError, match=r"a process that loads data was killed, .* lower training\.workers"):
        numbers(loader)


def test_what_a_worker_raises_is_the_same_line_as_without_workers() -> None:
    for workers in (0, 1):
        bad = Numbers(4, at=2, raises=DataError("images/2.png: is no image; unpack it again"))
        with pytest.raises(DataError, match=r"^images/2\.png: is no image; unpack it again$"):
            numbers(train_loader(bad, [[0, 1], [2, 3]], epoch=0, workers=workers))


def test_a_bug_in_a_data_set_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError, match="oops"):
        numbers(train_loader(Numbers(4, at=2, raises=ZeroDivisionError("oops")), [[2]], epoch=0, workers=1))
