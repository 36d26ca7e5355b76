"""CityScapes with classes, inverse depth and instances, as MTAN's arrays (Liu et al. 2019) or as the official tree.

The target `depth` is inverse depth, as in MTAN's benchmark; 0 is unknown. MTAN's arrays hold normalised values. From
the official tree, inverse depth is the disparity in pixels of the resized picture, (p - 1) / 256 for a stored p > 0 at
full size. The option `instances` adds the target `instance_offsets`, which the official tree alone has: how far a pixel
is from the mean position of its instance's pixels, in shares of the image.

The 500 validation pictures are the test split, because the labels of the official test pictures are not public.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gate2static.data.contract import IGNORE, DataSpec, Sample, Splits, TargetSpec
from gate2static.data.decoding import (
    Reader,
    read_image,
    read_label_image,
    read_npy,
    read_npy_depth,
    read_npy_maps,
    whole_labels,
)
from gate2static.data.files import Files, FileSamples, HoldOutOptions, existing_root, file_splits, require_files, wanted
from gate2static.data.transforms import Augmentation, one_of, resize
from gate2static.errors import DataError

Side = Annotated[int, Field(ge=32, le=2048)]

TRAIN_CLASSES = (
    ("road", 7, "flat"), ("sidewalk", 8, "flat"), ("building", 11, "construction"), ("wall", 12, "construction"),
    ("fence", 13, "construction"), ("pole", 17, "object"), ("traffic light", 19, "object"),
    ("traffic sign", 20, "object"), ("vegetation", 21, "nature"), ("terrain", 22, "nature"), ("sky", 23, "sky"),
    ("person", 24, "human"), ("rider", 25, "human"), ("car", 26, "vehicle"), ("truck", 27, "vehicle"),
    ("bus", 28, "vehicle"), ("train", 31, "vehicle"), ("motorcycle", 32, "vehicle"), ("bicycle", 33, "vehicle"),
)  # fmt: skip
"""The 19 evaluated classes: name, id in the official files, and category."""

LARGEST_ID = 33
"""The largest id; ids outside `TRAIN_CLASSES` are ignored. In an 8-bit file, -1 (licence plate) is stored as 255."""

CLASSES = {
    7: tuple(dict.fromkeys(category for _, _, category in TRAIN_CLASSES)),
    19: tuple(name for name, _, _ in TRAIN_CLASSES),
}

INSTANCES = 1000
"""The factor of the class in the official instance ids: 26003 is the car number 3."""

MTAN = "MTAN CityScapes"
OFFICIAL = "official CityScapes"
NYUD_SIZE = (288, 384)
"""The size of MTAN's NYUD-v2, whose folders have the same names as LibMTL's CityScapes."""
PARTS = {
    "image": ("leftImg8bit", "_leftImg8bit.png"),
    "semantic": ("gtFine", "_gtFine_labelIds.png"),
    "depth": ("disparity", "_disparity.png"),
    "instance_offsets": ("gtFine", "_gtFine_instanceIds.png"),
}
"""The folder and the file suffix of each part in the official tree."""


class CityscapesOptions(HoldOutOptions):
    """The options of CityScapes: the size of images and the set of classes, for both layouts."""

    size: tuple[Side, Side] = (128, 256)
    """The height and width. MTAN's arrays come as 128×256 and as 256×512; official pictures are resized."""
    classes: Literal[7, 19] = 7
    """The number of classes: the 19 evaluated classes, or their 7 categories."""
    instances: bool = False
    """Whether there is the target `instance_offsets`, which needs the official tree."""


def describe(options: CityscapesOptions) -> DataSpec:
    """Describes images with semantic labels, inverse depth and, if the options ask for them, instances."""
    names = CLASSES[options.classes]
    targets = {
        "semantic": TargetSpec(kind="semantic", channels=len(names), classes=names),
        "depth": TargetSpec(kind="depth", channels=1, unit="inverse depth"),
    }
    if options.instances:
        targets["instance_offsets"] = TargetSpec(kind="instance_offsets", channels=2)
    return DataSpec(image_shape=(3, *options.size), targets=targets)


def load(options: CityscapesOptions, spec: DataSpec) -> Splits:
    """Recognises the layout and lists the files: 2,975 pictures for training and 500 for testing in the whole data set.

    Raises:
        DataError: The folder is not this data set or half unpacked, or its arrays have another size.
    """
    root = existing_root(options)
    if any((root / folder).is_dir() for folder, _ in PARTS.values()):
        train, test = (_official_files(root, split, spec) for split in ("train", "val"))
        make = partial(
            FileSamples,
            readers=_official_readers(options),
            spec=spec,
            prepare=partial(resize, kinds=spec.kinds, size=options.size),
        )
    elif (root / "train").is_dir() or (root / "val").is_dir():
        if "instance_offsets" in spec.targets:
            raise DataError(
                f"{root}: found MTAN's arrays, which hold no instances; give the official tree, or leave out the task "
                "instance_offsets and data.options.instances"
            )
        train, test = (_mtan_files(root, split, options, spec) for split in ("train", "val"))
        _check_size(train[0]["image"], options)
        make = partial(FileSamples, readers=MTAN_READERS, spec=spec)
    else:
        raise DataError(
            f"{root}: no data set was recognised; allowed: MTAN's folder with train and val, or the official one with "
            f"{', '.join(folder for folder, _ in PARTS.values())}"
        )
    zoom = Augmentation(kinds=spec.kinds, zoom=one_of(1.0, 1.2, 1.5), off_centre=True)
    return file_splits(train, test, make, partial(_augment, augmentation=zoom), options)


def _augment(sample: Sample, generator: torch.Generator, *, augmentation: Callable[..., Sample]) -> Sample:
    """Augments a sample with inverse depth: a zoom divides depth, and so multiplies its inverse."""
    image, targets = augmentation(_inverted(sample), generator)
    return _inverted((image, targets))


def _inverted(sample: Sample) -> Sample:
    image, targets = sample
    if "depth" not in targets:
        return sample
    depth = targets["depth"]
    return image, {**targets, "depth": torch.where(depth > 0, 1 / depth, 0)}


def _mtan_files(root: Path, split: str, options: CityscapesOptions, spec: DataSpec) -> Sequence[Files]:
    labels = f"label_{options.classes}"
    # LibMTL names its copy of the 7-class labels `label`.
    if options.classes == 7 and not (root / split / labels).is_dir() and (root / split / "label").is_dir():
        labels = "label"
    folders = wanted({"image": "image", "semantic": labels, "depth": "depth"}, spec)
    names = {path.name for folder in folders.values() for path in (root / split / folder).glob("*.npy")}
    # By number: `10.npy` comes after `9.npy`.
    ordered = sorted(names, key=lambda name: (len(name), name)) or ["0.npy"]
    files: list[Files] = []
    for name in ordered:
        files.append({target: root / split / folder / name for target, folder in folders.items()})
    require_files(MTAN, (path for sample in files for path in sample.values()))
    return files


def _official_files(root: Path, split: str, spec: DataSpec) -> Sequence[Files]:
    names: set[str] = set()
    parts = wanted(PARTS, spec)
    for folder, ending in parts.values():
        pictures = root / folder / split
        names |= {str(path.relative_to(pictures)).removesuffix(ending) for path in pictures.glob(f"*/*{ending}")}
    if not names:
        raise DataError(
            f"{root / PARTS['image'][0] / split} holds no CITY/*{PARTS['image'][1]}; the folder has the {OFFICIAL} "
            "layout, half unpacked: unpack it again"
        )
    files: list[Files] = []
    for name in sorted(names):
        files.append({target: root / folder / split / f"{name}{ending}" for target, (folder, ending) in parts.items()})
    require_files(OFFICIAL, (path for sample in files for path in sample.values()))
    return files


def _check_size(path: Path, options: CityscapesOptions) -> None:
    size = tuple(read_npy(path).shape[:2])
    if size == options.size:
        return
    if size == NYUD_SIZE:
        raise DataError(f"{path}: found {size[0]} × {size[1]}, the size of MTAN's NYUD-v2; its data set is nyud_mtan")
    raise DataError(
        f"data.options.size: found {list(options.size)}, but {path} is {' × '.join(map(str, size))}; "
        f"write size: {list(size)}"
    )


def _read_mtan_labels(path: Path) -> Tensor:
    labels = whole_labels(path, read_npy(path))
    return torch.where(labels == -1, IGNORE, labels)


MTAN_READERS: dict[str, Reader] = {
    "image": read_npy_maps,
    "semantic": _read_mtan_labels,
    "depth": read_npy_depth,
}


def _official_readers(options: CityscapesOptions) -> dict[str, Reader]:
    names = CLASSES[options.classes]
    # A table from stored ids to classes; ids that are not evaluated stay ignored.
    numbers = [IGNORE] * (IGNORE + 1)
    for name, number, category in TRAIN_CLASSES:
        numbers[number] = names.index(name if options.classes == 19 else category)
    return {
        "image": read_image,
        "semantic": partial(_read_ids, numbers=tuple(numbers)),
        "depth": partial(_read_disparity, width=options.size[1]),
        "instance_offsets": _read_offsets,
    }


def _read_ids(path: Path, *, numbers: Sequence[int]) -> Tensor:
    ids = read_label_image(path)
    wrong = ids[(ids > LARGEST_ID) & (ids != IGNORE)].unique()
    if len(wrong):
        raise DataError(
            f"{path}: found the label id {int(wrong[0])}; allowed: 0 to {LARGEST_ID} and {IGNORE}, as in labelIds files"
        )
    return torch.tensor(numbers)[ids]


def _read_disparity(path: Path, *, width: int) -> Tensor:
    """Returns the disparity (1, H, W) in pixels of a picture that will be `width` pixels wide."""
    stored = read_label_image(path).float()
    return torch.where(stored > 0, (stored - 1) / 256 * width / stored.shape[1], 0)[None]


def _read_offsets(path: Path) -> Tensor:
    """Returns the offsets (2, H, W) from the instances' centres; `IGNORE` where there is no instance of a class."""
    ids = read_label_image(path)
    wrong = ids[(ids < 0) | (ids >= (LARGEST_ID + 1) * INSTANCES)]
    if len(wrong):
        raise DataError(
            f"{path}: found the instance id {int(wrong[0])}; allowed: 0 to {(LARGEST_ID + 1) * INSTANCES - 1}, as in "
            "instanceIds files"
        )
    height, width = ids.shape
    evaluated = torch.zeros(LARGEST_ID + 1, dtype=torch.bool)
    evaluated[[number for _, number, _ in TRAIN_CLASSES]] = True
    # A whole class or a group of objects that cannot be told apart has its class's id, below any instance's.
    valid = (ids >= INSTANCES) & evaluated[ids // INSTANCES]
    rows, columns = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    counts = ids.flatten().bincount().clamp(min=1)
    offsets: list[Tensor] = []
    for position, side in ((columns, width), (rows, height)):
        centres = ids.flatten().bincount(position.flatten()) / counts
        offsets.append(((position - centres[ids]) / side).float())
    return torch.where(valid, torch.stack(offsets), IGNORE)
