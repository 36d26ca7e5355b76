"""What a data set file offers: a description that needs no files, and three splits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from gate2static.recipe import Strict

Sample = tuple[Tensor, dict[str, Tensor]]
"""An image (C, H, W) and the target of every task."""


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


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Disjoint data to train on, to watch training with, and to report."""

    train: Dataset[Sample]
    val: Dataset[Sample]
    test: Dataset[Sample]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A registry entry: the options a data set takes, its description, and its loader."""

    options: type[Strict]
    describe: Callable[[Any], DataSpec]
    load: Callable[[Any], Splits]
