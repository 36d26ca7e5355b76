"""Taskonomy with five dense tasks, split by building (Zamir et al. 2018; tasks as in AdaShare, Sun et al. 2020).

Normals have x to the right, y down and z away from the camera, as in the files. Keypoints and texture edges are heat
maps, so both are of the kind `keypoints`: the strength of a response, and 1 where AdaShare clips it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from gate2static.data.augmented import with_augmentation
from gate2static.data.contract import IGNORE, DataSpec, Splits, TargetSpec
from gate2static.data.decoding import Reader, read_image, read_image_normals, read_label_image
from gate2static.data.files import FileOptions, Files, FileSamples, existing_root, home_path, read_lines, wanted
from gate2static.data.taskonomy.buildings import TINY
from gate2static.data.transforms import Augmentation, between, resize
from gate2static.errors import DataError

CLASSES = (
    "background", "bottle", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "microwave",
    "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
)  # fmt: skip

DOMAINS = {
    "image": "rgb",
    "semantic": "segment_semantic",
    "depth": "depth_zbuffer",
    "normals": "normal",
    "keypoints": "keypoints2d",
    "edges": "edge_texture",
}
"""The folder of each part of a sample."""

LAYOUTS = (
    "{domain}/{building}",
    "{domain}/taskonomy/{building}",
    "{building}/{domain}",
    "{building}_{domain}/{domain}",
    "{building}_{domain}",
)
"""The folders of a building's pictures of one domain, one per way of downloading and unpacking."""

NAME = "point_{}_view_{}_domain_{}.png"
VIEW = re.compile(r"point_(\d+)_view_(\d+)_domain_(\w+)\.png")
"""The pattern of file names; the domain may be spelled `segment_semantic` or `segmentsemantic`."""

SMALLEST_FILE_BYTES = 67
"""The size of a PNG file of one pixel; a smaller file holds no picture."""
MOST_INCOMPLETE = 0.05
"""The largest share of a building's views that may lack a file and are left out; more means half unpacked."""

UNITS_PER_METRE = 512
NO_SURFACE = 65535
KEYPOINT_SCALE = 0.005 * 2**16
EDGE_SCALE = 0.08 * 2**16


@dataclass(frozen=True, kw_only=True)
class _Building:
    """The files of one building.

    Attributes:
        folders: The folder of each part.
        spellings: The spelling of each part's domain in file names.
        views: The N views as pairs of point and view, (N, 2).
    """

    folders: dict[str, Path]
    spellings: dict[str, str]
    views: NDArray[np.int32]


class _Views(Sequence[Files]):
    """The files of all views. Paths are built on access, because millions of paths would fill each worker's memory."""

    def __init__(self, buildings: Sequence[_Building]) -> None:
        self._buildings = buildings
        # A view's index is found by bisection among the buildings' ends.
        self._ends = np.cumsum([len(building.views) for building in buildings])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Files:  # type: ignore[override] # slices are not needed
        index = range(len(self))[index]
        position = int(np.searchsorted(self._ends, index, side="right"))
        building = self._buildings[position]
        point, view = building.views[index - int(self._ends[position])]
        return {
            target: folder / NAME.format(point, view, building.spellings[target])
            for target, folder in building.folders.items()
        }


class TaskonomyOptions(FileOptions):
    """The options of Taskonomy: the size of pictures, and the buildings of each split."""

    size: Annotated[int, Field(ge=32, le=1024)] = 256
    """The height and width of pictures, which are stored with 512×512 pixels."""
    buildings: str | None = None
    """A file of splits such as `train_val_test_medium.csv`, with the columns id, train, val and test. The default is
    the official tiny partition with 25, 5 and 5 buildings."""


def describe(options: TaskonomyOptions) -> DataSpec:
    """Describes square images with 17 classes, depth, normals, keypoints and texture edges."""
    heat = TargetSpec(kind="keypoints", channels=1)
    return DataSpec(
        image_shape=(3, options.size, options.size),
        targets={
            "semantic": TargetSpec(kind="semantic", channels=len(CLASSES), classes=CLASSES),
            "depth": TargetSpec(kind="depth", channels=1),
            "normals": TargetSpec(kind="normals", channels=3),
            "keypoints": heat,
            "edges": heat,
        },
    )


def load(options: TaskonomyOptions, spec: DataSpec) -> Splits:
    """Recognises the layout and lists the views of every building.

    Raises:
        DataError: The folder is not this data set, is half unpacked, or lacks a building of the splits.
    """
    root = existing_root(options)
    buildings = _read_buildings(home_path(options.buildings)) if options.buildings else TINY
    layout = _layout(root, [building for split in buildings.values() for building in split])
    domains = wanted(DOMAINS, spec)
    to_size = partial(resize, kinds=spec.kinds, size=(options.size, options.size))

    def samples(split: str) -> FileSamples:
        views = _Views([_views(root, layout, building, domains) for building in buildings[split]])
        return FileSamples(views, READERS, spec, prepare=to_size)

    train = samples("train")
    val = samples("val")
    test = samples("test")
    augment = Augmentation(kinds=describe(options).kinds, zoom=between(0.5, 1.5), off_centre=True)
    augmented = with_augmentation(train, augment, enabled=options.augment, seed=options.seed)
    return Splits(train=augmented, val=val, test=test)


def _read_buildings(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the buildings of each split of a file of splits."""
    if not path.is_file():
        raise DataError(
            f"data.options.buildings: found {path}, which is not a file; give a file of splits or leave it out"
        )
    header, *rows = (_cells(line) for line in read_lines("Taskonomy splits", path))
    is_unique = len({row[0] for row in rows}) == len(rows)
    has_one_split = all(sorted(row[1:]) == ["0", "0", "1"] for row in rows)
    if header != ["id", "train", "val", "test"] or not is_unique or not has_one_split:
        raise DataError(
            f"{path}: not a file of splits; allowed: the columns id,train,val,test, and each building once, with one 1"
        )
    buildings = {}
    for column, split in enumerate(header[1:], start=1):
        buildings[split] = tuple(row[0] for row in rows if row[column] == "1")
        if not buildings[split]:
            raise DataError(f"{path}: no building is in {split}; each of train, val and test needs one")
    return buildings


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")]


def _layout(root: Path, buildings: Sequence[str]) -> str:
    """Returns the layout in which most buildings have pictures."""

    def present(layout: str) -> int:
        folders = (root / layout.format(domain=DOMAINS["image"], building=building) for building in buildings)
        return sum(_has_pictures(folder) for folder in folders)

    best = max(LAYOUTS, key=present)
    if not present(best):
        examples = ", ".join(layout.format(domain="rgb", building=buildings[0]) for layout in LAYOUTS)
        raise DataError(f"{root}: no data set was recognised; allowed: one of the folders {examples}, and so on")
    return best


def _has_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(VIEW.fullmatch(path.name) for path in folder.iterdir())


def _views(root: Path, layout: str, building: str, domains: Mapping[str, str]) -> _Building:
    """Returns a building's views that have all of their files, in order."""
    folders = {target: root / layout.format(domain=domain, building=building) for target, domain in domains.items()}
    pictures = {target: _pictures(folder, layout) for target, folder in folders.items()}
    all_views = set().union(*(views for _, views in pictures.values()))
    whole_views = all_views.intersection(*(views for _, views in pictures.values()))
    incomplete = len(all_views) - len(whole_views)
    if incomplete > MOST_INCOMPLETE * len(all_views):
        point, view = min(all_views - whole_views)
        target = next(target for target, (_, views) in pictures.items() if (point, view) not in views)
        raise DataError(
            f"{folders[target] / NAME.format(point, view, pictures[target][0])} is missing or empty, and in all "
            f"{incomplete} of {len(all_views)} views of {building} are incomplete; the folder has the "
            f"Taskonomy layout {layout}, half unpacked: unpack it again"
        )
    return _Building(
        folders=folders,
        spellings={target: spelling for target, (spelling, _) in pictures.items()},
        views=np.array(sorted(whole_views), dtype=np.int32),
    )


def _pictures(folder: Path, layout: str) -> tuple[str, set[tuple[int, int]]]:
    """Returns the spelling of the domain in a folder's file names, and its views (point, view)."""
    views: set[tuple[int, int]] = set()
    spelling = ""
    # `scandir` and not `glob`, because a domain has up to a million files.
    for entry in os.scandir(folder) if folder.is_dir() else ():
        match = VIEW.fullmatch(entry.name)
        # Only label files may be empty, and a look at the size of each of a million files takes minutes.
        if match and ("segment" not in match[3] or entry.stat().st_size >= SMALLEST_FILE_BYTES):
            views.add((int(match[1]), int(match[2])))
            spelling = match[3]
    if not views:
        raise DataError(
            f"{folder} is missing or holds no {NAME.format('*', '*', '*')}; the folder has the Taskonomy layout "
            f"{layout}, half unpacked: unpack it again, or leave the building out with data.options.buildings"
        )
    return spelling, views


def _read_semantic(path: Path) -> Tensor:
    """Reads labels; files have 0 for uncertain pixels, 1 for the background, and objects from 2 on."""
    labels = read_label_image(path)
    if int(labels.max()) > len(CLASSES):
        raise DataError(f"{path}: found the label {int(labels.max())}; allowed: 0 to {len(CLASSES)}, 0 for uncertain")
    return torch.where(labels == 0, IGNORE, labels - 1)


def _read_depth(path: Path) -> Tensor:
    stored = read_label_image(path)
    return torch.where(stored == NO_SURFACE, 0, stored / UNITS_PER_METRE)[None]


def _read_heat(path: Path, *, scale: float) -> Tensor:
    return (read_label_image(path) / scale).clamp(max=1)[None]


READERS: dict[str, Reader] = {
    "image": read_image,
    "semantic": _read_semantic,
    "depth": _read_depth,
    "normals": read_image_normals,
    "keypoints": partial(_read_heat, scale=KEYPOINT_SCALE),
    "edges": partial(_read_heat, scale=EDGE_SCALE),
}
