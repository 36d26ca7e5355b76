"""CamVid (Brostow et al., 2009) as prepared for SegNet: street photographs with 11 classes, and the edges between them.

```
ROOT/train/NAME.png  trainannot/NAME.png     367 photographs, and labels 0 to 10, 11 to ignore
     val/NAME.png    valannot/NAME.png       101
     test/NAME.png   testannot/NAME.png      233
```
Photographs may be `.jpg` files too.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor

from gate2static.data.augmented import with_augmentation
from gate2static.data.boundaries import class_boundaries
from gate2static.data.contract import IGNORE, DataSpec, Sample, Splits, TargetSpec
from gate2static.data.decoding import read_image, read_label_image
from gate2static.data.files import FileOptions, Files, FileSamples, existing_root, require_files
from gate2static.data.in_memory import InMemory, hold
from gate2static.data.transforms import Augmentation, one_of, resize
from gate2static.errors import DataError

LAYOUT = "CamVid"
Side = Annotated[int, Field(ge=32, le=1024)]

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist")
UNLABELLED = len(CLASSES)
"""The label of pixels that are ignored."""
SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".png")
"""The file types of photographs."""


class CamvidOptions(FileOptions):
    """The options of `camvid`: the size of images."""

    size: tuple[Side, Side] = (180, 240)
    """The height and width that photographs of another size are resized to."""


def describe(options: CamvidOptions) -> DataSpec:
    """Describes images with semantic labels and edges."""
    return DataSpec(
        image_shape=(3, *options.size),
        targets={
            "semantic": TargetSpec(kind="semantic", channels=len(CLASSES), classes=CLASSES),
            "edges": TargetSpec(kind="edges", channels=1),
        },
    )


def load(options: CamvidOptions, spec: DataSpec) -> Splits:
    """Reads all splits into memory, which takes 211 KiB per image with both targets at 180×240.

    Training images are zoomed by 1, 1.2 or 1.5 at a random place and mirrored, as those of CityScapes.

    Raises:
        DataError: The folder is not this data set or half unpacked, or a file is broken.
    """
    root = existing_root(options)
    files = {split: _files(root, split) for split in SPLITS}
    train, val, test = (_samples(files[split], options, spec, f"reading {LAYOUT}/{split}") for split in SPLITS)
    augment = Augmentation(kinds=spec.kinds, zoom=one_of(1.0, 1.2, 1.5), off_centre=True)
    augmented = with_augmentation(train, augment, enabled=options.augment, seed=options.seed)
    return Splits(train=augmented, val=val, test=test)


def _files(root: Path, split: str) -> list[Files]:
    """Returns the files of a split, in the order of their names."""
    photographs = root / split
    labels = root / f"{split}annot"
    paths = {path.stem: path for suffix in SUFFIXES for path in photographs.glob(f"*{suffix}")}
    names = {*paths, *(path.stem for path in labels.glob("*.png"))}
    if not names:
        raise DataError(
            f"{root}: no {LAYOUT} data in {split} and {split}annot; allowed: SegNet's copy of {LAYOUT} with train, "
            "trainannot, val, valannot, test and testannot, whose labels are numbers"
        )
    suffix = next(iter(paths.values())).suffix if paths else SUFFIXES[0]
    files: list[Files] = []
    for name in sorted(names):
        image = paths.get(name, photographs / f"{name}{suffix}")
        files.append({"image": image, "semantic": labels / f"{name}.png"})
    require_files(LAYOUT, (path for sample in files for path in sample.values()))
    return files


def _samples(files: list[Files], options: CamvidOptions, spec: DataSpec, what: str) -> InMemory:
    # Edges are found in resized labels, because resizing would tear lines of one pixel.
    finish = partial(_finish, size=options.size, targets=tuple(spec.targets))
    readers = {"image": read_image, "semantic": _read_labels}
    labelled = DataSpec(image_shape=spec.image_shape, targets={"semantic": describe(options).targets["semantic"]})
    return hold(FileSamples(files, readers, labelled, prepare=finish), spec.kinds, what)


def _finish(sample: Sample, *, size: tuple[int, int], targets: tuple[str, ...]) -> Sample:
    """Resizes a photograph and its labels, and makes the wanted targets of the labels."""
    image, maps = resize(sample, {"semantic": "semantic"}, size)
    labels = maps["semantic"]
    made: Mapping[str, Tensor] = {"semantic": labels, "edges": _edges(labels)}
    return image, {name: made[name] for name in targets}


def _edges(labels: Tensor) -> Tensor:
    """Returns the boundaries between classes; pixels at or without a label on either side are ignored."""
    unknown = (labels == IGNORE)[None]
    edges = class_boundaries(labels)
    # A boundary is the pixel to the left or above, so an unknown pixel makes these two unknown as well.
    beside = unknown.clone()
    beside[:, :, :-1] |= unknown[:, :, 1:]
    beside[:, :-1] |= unknown[:, 1:]
    return edges.where(~beside, IGNORE)


def _read_labels(path: Path) -> Tensor:
    labels = read_label_image(path)
    return labels.where(labels != UNLABELLED, IGNORE)
