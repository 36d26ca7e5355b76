"""Augmentation depends on seed, epoch and index alone, whoever loads the sample."""

import torch
from torch.utils.data import DataLoader, Dataset

from gate2static.data import Sample
from gate2static.data.augmented import Augmented


class Zeros(Dataset[Sample]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Sample:
        return torch.zeros(4), {"index": torch.tensor(index)}


def noise(sample: Sample, generator: torch.Generator) -> Sample:
    return sample[0] + torch.rand(4, generator=generator), sample[1]


def images(data: Augmented, workers: int = 0) -> torch.Tensor:
    loader = DataLoader(data, batch_size=5, num_workers=workers, generator=torch.Generator())
    return torch.cat([image for image, _ in loader])


def test_every_sample_of_every_epoch_and_seed_is_drawn_apart() -> None:
    drawn = []
    for seed in range(3):
        data = Augmented(Zeros(), noise, seed)
        for epoch in range(3):
            data.set_epoch(epoch)
            drawn.append(images(data))
    assert len(torch.cat(drawn).unique(dim=0)) == 3 * 3 * 12


def test_workers_and_order_change_nothing() -> None:
    data = Augmented(Zeros(), noise, 7)
    data.set_epoch(4)
    alone = images(data)
    assert torch.equal(alone, images(data, workers=2))
    assert torch.equal(alone[8], data[8][0])
    assert torch.equal(alone[11], data[-1][0])


def test_an_epoch_that_is_begun_again_is_the_same() -> None:
    data, resumed = Augmented(Zeros(), noise, 7), Augmented(Zeros(), noise, 7)
    for epoch in range(4):
        data.set_epoch(epoch)
        images(data)
    resumed.set_epoch(3)
    assert torch.equal(images(data), images(resumed))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    Augmented(Zeros(), noise)[0]
    assert torch.equal(before, torch.get_rng_state())


def test_it_ends_where_its_base_ends() -> None:
    assert len(list(Augmented(Zeros(), noise))) == 12  # type: ignore[call-overload]
