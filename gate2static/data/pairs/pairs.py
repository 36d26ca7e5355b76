"""Images of two objects that overlap, composed in memory: what the data sets of pairs share."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from gate2static.data.contract import DataSpec, Sample
from gate2static.recipe import Strict

Images = Annotated[int, Field(ge=1, le=100_000)]


class PairOptions(Strict):
    """The options of all data sets of pairs: the number of images, and the seed."""

    train_images: Images = 4096
    val_images: Images = 512
    test_images: Images = 2048
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of the split and the images; it is not the recipe's seed, so that all runs see the same data."""


class Pairs(Dataset[Sample]):
    """Images of two objects, held in memory.

    Args:
        images: The images, (N, 1, H, W): bytes, or numbers in [-1, 1].
        targets: N targets of each task, by name; maps may be bytes.
        sources: The numbers of the two objects of each image, (N, 2).
    """

    def __init__(self, images: Tensor, targets: Mapping[str, Tensor], sources: Tensor) -> None:
        self.images = images
        self.targets = dict(targets)
        self.sources = sources

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        if image.dtype == torch.uint8:
            image = image / 127.5 - 1
        targets = {name: target[index] for name, target in self.targets.items()}
        return image, {name: target.float() if target.dim() else target for name, target in targets.items()}

    def with_targets(self, spec: DataSpec) -> "Pairs":
        """Returns the same images with the targets of `spec` only."""
        return Pairs(self.images, {name: self.targets[name] for name in spec.targets}, self.sources)


def place(objects: Tensor, sources: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Places pairs of objects on empty squares, one layer per object: (N, 2, side, side).

    Args:
        objects: All objects, (objects, size, size).
        sources: The objects of each image, (N, 2).
        rows: The first row of each object, (N, 2).
        columns: The first column of each object, (N, 2).
        side: The height and width of the images.
    """
    size = objects.shape[-1]
    layers = objects.new_zeros(len(sources), 2, side, side)
    places = zip(sources.tolist(), rows.tolist(), columns.tolist(), strict=True)
    for index, pair in enumerate(places):
        for layer, (source, top, left) in enumerate(zip(*pair, strict=True)):
            layers[index, layer, top : top + size, left : left + size] = objects[source]
    return layers
