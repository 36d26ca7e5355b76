"""Rooms with models of real furniture, rendered with global illumination, in the style of NYUD-v2.

```
ROOT/classes.json                the names of the 20 classes, in the order of their ids
     train/image/000000.jpg …    any size
     train/label/000000.png …    ids 0 to 19
     train/depth/000000.png …    16 bits, millimetres along the optical axis, 0 where it is unknown
     train/normals/000000.png …  (n + 1) / 2 in the camera's axes: x to the right, y down, z into the picture
     val/…  test/…               the same
```
A class that the test split does not show is not scored (`tasks.semantic`).
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gate2static.data.augmented import with_augmentation
from gate2static.data.contract import DataSpec, Splits, TargetSpec
from gate2static.data.decoding import Reader, read_image, read_image_normals, read_label_image
from gate2static.data.files import FileOptions, Files, FileSamples, existing_root, require_files, wanted
from gate2static.data.in_memory import InMemory, hold
from gate2static.data.nyud.nyud_mtan import CLASSES as NYUD_CLASSES
from gate2static.data.transforms import Augmentation, one_of, resize
from gate2static.errors import DataError
from gate2static.strict_json import read_json

LAYOUT = "rooms"
Side = Annotated[int, Field(ge=32, le=1024)]

NYUD_CLASS_OF = {
    "wall": "wall", "floor": "floor", "ceiling": "ceiling", "bed": "bed", "sofa": "sofa", "chair": "chair",
    "table": "table", "cabinet": "furniture", "shelf": "furniture", "tv": "tv", "picture": "picture",
    "window": "window", "door": "window", "lamp": "objects", "plant": "objects", "sanitary": "objects",
    "appliance": "objects", "person": "objects", "object": "objects", "books": "books",
}  # fmt: skip
"""The 20 classes in the order of their ids, and the one of NYUD-v2's 13 classes that each belongs to."""

CLASSES = {13: NYUD_CLASSES, 20: tuple(NYUD_CLASS_OF)}
PARTS = {
    "image": ("image", ".jpg"),
    "semantic": ("label", ".png"),
    "depth": ("depth", ".png"),
    "normals": ("normals", ".png"),
}
"""The folder and the suffix of each part of a sample."""


class RoomsOptions(FileOptions):
    """The options of `rooms`: the size of images, and the set of classes."""

    size: tuple[Side, Side] = (96, 128)
    """The height and width that images of another size are resized to."""
    classes: Literal[13, 20] = 20
    """The number of classes: the 20 of the files, or the 13 of NYUD-v2 that they belong to."""


def describe(options: RoomsOptions) -> DataSpec:
    """Describes images with semantic labels, depth and normals."""
    names = CLASSES[options.classes]
    return DataSpec(
        image_shape=(3, *options.size),
        targets={
            "semantic": TargetSpec(kind="semantic", channels=len(names), classes=names),
            "depth": TargetSpec(kind="depth", channels=1),
            "normals": TargetSpec(kind="normals", channels=3),
        },
    )


def load(options: RoomsOptions, spec: DataSpec) -> Splits:
    """Reads all splits into memory, which takes 170 KiB per image with all targets at 96×128.

    Training images are zoomed by 1, 1.2 or 1.5 about the centre and mirrored, as those of NYUD-MT.

    Raises:
        DataError: The folder is not this data set or half unpacked, or a file is broken.
    """
    root = existing_root(options)
    _check_classes(root / "classes.json")
    files = {split: _files(root / split, spec) for split in ("train", "val", "test")}
    train, val, test = (_samples(files[split], options, spec, f"reading {LAYOUT}/{split}") for split in files)
    augment = Augmentation(kinds=describe(options).kinds, zoom=one_of(1.0, 1.2, 1.5))
    augmented = with_augmentation(train, augment, enabled=options.augment, seed=options.seed)
    return Splits(train=augmented, val=val, test=test)


def _check_classes(path: Path) -> None:
    """Checks that the names of the ids are those of `CLASSES`."""
    if not path.is_file():
        raise DataError(
            f"{path} is missing; the {LAYOUT} folder holds it beside train, val and test: give that folder as "
            "data.options.root"
        )
    names = read_json(path, what="list of classes", error=DataError)
    if names != list(CLASSES[20]):
        raise DataError(f"{path}: names other classes than those of {LAYOUT}; allowed: {', '.join(CLASSES[20])}")


def _files(folder: Path, spec: DataSpec) -> list[Files]:
    """Returns the files of a split, in the order of their names."""
    parts = wanted(PARTS, spec)
    names: set[str] = set()
    for subfolder, suffix in parts.values():
        names |= {path.stem for path in (folder / subfolder).glob(f"*{suffix}")}
    if not names:
        examples = ", ".join(f"{subfolder}/*{suffix}" for subfolder, suffix in parts.values())
        raise DataError(f"{folder}: no {LAYOUT} data; expected {examples}; unpack the data set again")
    files: list[Files] = []
    for name in sorted(names):
        files.append({part: folder / subfolder / f"{name}{suffix}" for part, (subfolder, suffix) in parts.items()})
    require_files(LAYOUT, (path for sample in files for path in sample.values()))
    return files


def _samples(files: list[Files], options: RoomsOptions, spec: DataSpec, what: str) -> InMemory:
    to_size = partial(resize, kinds=spec.kinds, size=options.size)
    return hold(FileSamples(files, _readers(options), spec, prepare=to_size), spec.kinds, what)


def _readers(options: RoomsOptions) -> dict[str, Reader]:
    names = CLASSES[options.classes]
    # A table from stored ids to classes.
    numbers = [names.index(merged if options.classes == 13 else name) for name, merged in NYUD_CLASS_OF.items()]
    return {
        "image": read_image,
        "semantic": partial(_read_ids, numbers=tuple(numbers)),
        "depth": _read_depth,
        "normals": read_image_normals,
    }


def _read_ids(path: Path, *, numbers: tuple[int, ...]) -> Tensor:
    ids = read_label_image(path)
    wrong = ids[ids >= len(numbers)].unique()
    if len(wrong):
        raise DataError(f"{path}: found the label id {int(wrong[0])}; allowed: 0 to {len(numbers) - 1}")
    return torch.tensor(numbers)[ids]


def _read_depth(path: Path) -> Tensor:
    return (read_label_image(path) / 1000)[None]
