"""Samples that are held in memory, so that a file is decoded once and not once per epoch."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gate2static.data.contract import Sample
from gate2static.data.files import FileSamples
from gate2static.data.transforms import normalise
from gate2static.progress import with_bar

NORMALS_UNIT = 32767
"""The scale of stored normals, which are whole numbers and so take half the memory."""
BYTE_KINDS = ("semantic", "edges", "saliency", "mask")
"""The kinds whose maps are whole numbers up to 255."""


class InMemory(Dataset[Sample]):
    """Pictures and maps, stored in a compact form.

    Args:
        maps: N entries of `image`, as bytes (N, 3, H, W), and of each target: labels as bytes, normals as whole numbers
            up to `NORMALS_UNIT`.
        kinds: The kind of each target.
    """

    def __init__(self, maps: Mapping[str, Tensor], kinds: Mapping[str, str]) -> None:
        self.maps = dict(maps)
        self.kinds = dict(kinds)

    def __len__(self) -> int:
        return len(self.maps["image"])

    def __getitem__(self, index: int) -> Sample:
        maps = {name: values[index] for name, values in self.maps.items()}
        image = normalise(maps.pop("image") / 255)
        return image, {name: _restored(self.kinds[name], values) for name, values in maps.items()}


def hold(samples: FileSamples, kinds: Mapping[str, str], what: str) -> InMemory:
    """Reads all samples into memory, with a progress bar if that takes long.

    Args:
        samples: Samples of one size; images keep 8 bits.
        kinds: The kind of each target.
        what: What is read, for the bar: "reading camvid".

    Raises:
        DataError: A file is missing, broken, or does not fit the description.
    """

    def stored(index: int) -> dict[str, Tensor]:
        image, targets = samples.picture(index)
        maps = {name: _stored(kinds[name], target) for name, target in targets.items()}
        return {"image": (image * 255).round().to(torch.uint8), **maps}

    return InMemory(stack(stored, len(samples), what), kinds)


def stack(make: Callable[[int], Mapping[str, Tensor]], count: int, what: str) -> dict[str, Tensor]:
    """Makes entries one after the other and stacks them by name, with a progress bar if that takes long.

    Args:
        make: Maps an index to tensors by name, with the same names, shapes and types for all indices.
        count: The number of entries.
        what: The work, to the left of the bar.
    """
    stacks: dict[str, Tensor] = {}
    for index in with_bar(range(count), what):
        for name, value in make(index).items():
            if name not in stacks:
                stacks[name] = value.new_empty((count, *value.shape))
            stacks[name][index] = value
    return stacks


def _stored(kind: str, target: Tensor) -> Tensor:
    """Returns the compact form of a map: bytes for labels, 16 bits for each number of a normal."""
    if kind in BYTE_KINDS:
        return target.to(torch.uint8)
    if kind == "normals":
        return (target * NORMALS_UNIT).round().to(torch.int16)
    return target


def _restored(kind: str, values: Tensor) -> Tensor:
    if kind == "semantic":
        return values.long()
    if kind == "normals":
        return values / NORMALS_UNIT
    return values.float()
