"""What a data set file offers: a description that needs no files, and three splits.

Targets by kind, for one sample whose image is (C, H, W):

| kind | target |
|---|---|
| `classification` | int64 scalar, a class |
| `attributes` | float32 (A,) of 0 and 1; `channels` is A |
| `semantic` | int64 (H, W), a class or `IGNORE` |
| `depth` | float32 (1, H, W) in metres; 0 or less is invalid |
| `normals` | float32 (3, H, W), unit vectors; the zero vector is invalid |
| `edges`, `saliency`, `mask` | float32 (1, H, W) of 0 and 1, or `IGNORE` |
| `keypoints` | float32 (1, H, W), a heat map; below 0 is invalid |

A normal's x axis points along the image's columns and its y axis along the rows, so that turning or mirroring the image
turns or mirrors them alike; where z points, each data set says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from gate2static.recipe import Strict

Sample = tuple[Tensor, dict[str, Tensor]]
"""An image (C, H, W) and the target of every task."""

IGNORE = 255
"""Marks pixels that count neither in losses nor in metrics, in targets that hold classes or 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """One target of a data set: which kind of task it is, how many outputs a head for it needs, and their names."""

    kind: str
    channels: int
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a network for this data set must fit: `image_shape` (C, H, W) and the targets by name."""

    image_shape: tuple[int, int, int]
    targets: dict[str, TargetSpec]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every target by its name."""
        return {name: target.kind for name, target in self.targets.items()}


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Data to train on, to watch training with, and to report.

    Training data is in no other split. A data set that comes without a validation split may give its test split as
    `val` too; nothing is selected on it then.
    """

    train: Dataset[Sample]
    val: Dataset[Sample]
    test: Dataset[Sample]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A registry entry: the options a data set takes, its description, and its loader.

    The loader is given the description with the targets that are wanted, and needs no files of others.
    """

    options: type[Strict]
    describe: Callable[[Any], DataSpec]
    load: Callable[[Any, DataSpec], Splits]
