"""NYUD-v2 as NYUD_MT (Maninis et al., 2019): 40 classes, depth, normals and edges; 795 training and 654 test images.

```
ROOT/gt_sets/train.txt  val.txt          names, one per line; `val` is the test set
     images/  segmentation/  depth/  normals/  edge/      one file per name in each
```
Three variants with the same folders and different file types are in circulation:

| variant | images | segmentation | depth | normals | edge |
|---|---|---|---|---|---|
| ASTMT (Maninis et al.) | .jpg | .mat `segmentation` | .mat `depth` | .jpg | .png |
| MTI-Net (Vandenhende et al.) | .jpg | .png | .npy | .npy | .npy |
| InvPT (Ye and Xu) | .png | .png | .npy | .png | .png |

In all of them label 0 means unlabelled and 1 to 40 are the classes; depth is in metres, 0 where it is unknown; pictures
of normals hold (n + 1) / 2. Copies are 480×640, or cut to the 425×560 where depth was measured. The latter are resized
to 480×640, as in the benchmark's own code, and both to the option `size` where it is another.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gate2static.data.contract import IGNORE, DataSpec, Sample, Splits, TargetSpec
from gate2static.data.decoding import (
    Reader,
    read_image,
    read_image_normals,
    read_label_image,
    read_mat,
    read_mat_maps,
    read_npy_depth,
    read_npy_maps,
    read_npy_normals,
    valid_depth,
    whole_labels,
)
from gate2static.data.files import (
    Files,
    FileSamples,
    HoldOutOptions,
    existing_root,
    file_splits,
    read_lines,
    require_files,
    wanted,
)
from gate2static.data.transforms import Augmentation, one_of, resize
from gate2static.errors import DataError

CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
    *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture"),
    "other prop",
)
Side = Annotated[int, Field(ge=32, le=2048)]
SIZE = (480, 640)
CUT_SIZE = (425, 560)
SPEC = DataSpec(
    image_shape=(3, *SIZE),
    targets={
        "semantic": TargetSpec(kind="semantic", channels=len(CLASSES), classes=CLASSES),
        "depth": TargetSpec(kind="depth", channels=1),
        "normals": TargetSpec(kind="normals", channels=3),
        "edges": TargetSpec(kind="edges", channels=1),
    },
)
Variant = Mapping[str, tuple[str, Reader]]
"""The file suffix and the reader of each part."""

FOLDERS = {"image": "images", "semantic": "segmentation", "depth": "depth", "normals": "normals", "edges": "edge"}


class NyudOptions(HoldOutOptions):
    """The options of `nyud_mt`."""

    size: tuple[Side, Side] = SIZE
    """The height and width that images are resized to."""


def describe(options: NyudOptions) -> DataSpec:
    """Describes images with four maps."""
    return replace(SPEC, image_shape=(3, *options.size))


def load(options: NyudOptions, spec: DataSpec) -> Splits:
    """Recognises the variant and checks that the files of both lists exist.

    Training images are zoomed by 1, 1.2 or 1.5 about the centre and mirrored (Vandenhende et al., 2020).

    Raises:
        DataError: The folder has none of the three variants, or a file is missing.
    """
    root = existing_root(options)
    if not any((root / folder).is_dir() for folder in ("gt_sets", "segmentation", "edge")):
        raise DataError(
            f"{root}: no data set was recognised; allowed: the NYUD_MT folder, which holds gt_sets, "
            f"{', '.join(FOLDERS.values())}; MTAN's arrays (train, val) are the data set nyud_mtan"
        )
    train, test = (read_lines("NYUD_MT", root / "gt_sets" / f"{split}.txt") for split in ("train", "val"))
    variants = {name: wanted(variant, spec) for name, variant in VARIANTS.items()}
    names = _recognise(root, [*train, *test], variants)
    # Several variants remain only if files are missing, which `require_files` then reports.
    variant = variants[names[0]]
    files = [_files(root, variant, stem) for stem in (*train, *test)]
    require_files(f"NYUD_MT {' or '.join(names)}", (path for sample in files for path in sample.values()))
    readers = {part: reader for part, (_, reader) in variant.items()}
    prepare = partial(_resized, kinds=spec.kinds, size=options.size)
    make = partial(FileSamples, readers=readers, spec=spec, prepare=prepare)
    augment = Augmentation(kinds=SPEC.kinds, zoom=one_of(1.0, 1.2, 1.5))
    return file_splits(files[: len(train)], files[len(train) :], make, augment, options)


def _files(root: Path, variant: Variant, stem: str) -> Files:
    """Returns the files of the image with this name."""
    return {part: root / FOLDERS[part] / f"{stem}{suffix}" for part, (suffix, _) in variant.items()}


def _recognise(root: Path, stems: list[str], variants: Mapping[str, Variant]) -> list[str]:
    """Returns the variants with the most files of the first listed image that has any file.

    There are several variants where the files that distinguish them are missing.
    """
    for stem in stems:
        counts = {name: _count_files(_files(root, variant, stem)) for name, variant in variants.items()}
        if any(counts.values()):
            return [name for name, count in counts.items() if count == max(counts.values())]
    raise DataError(
        f"{root}: gt_sets lists {len(stems)} images, and none has a file of a type that {', '.join(VARIANTS)} have in "
        f"{', '.join(FOLDERS.values())}; unpack the data set again"
    )


def _count_files(files: Files) -> int:
    return sum(path.is_file() for path in files.values())


def _resized(sample: Sample, *, kinds: Mapping[str, str], size: tuple[int, int]) -> Sample:
    """Resizes a picture of one of the two sizes; another one is left for the check that names its file."""
    return resize(sample, kinds, size) if tuple(sample[0].shape[-2:]) in (SIZE, CUT_SIZE) else sample


def _labels_png(path: Path) -> Tensor:
    return _without_background(read_label_image(path))


def _labels_mat(path: Path) -> Tensor:
    return _without_background(whole_labels(path, read_mat(path, "segmentation")))


def _without_background(labels: Tensor) -> Tensor:
    """Converts the stored labels 1 to 40 to classes 0 to 39, and 0 to `IGNORE`."""
    return (labels - 1).where(labels != 0, IGNORE)


def _depth_mat(path: Path) -> Tensor:
    return valid_depth(read_mat_maps(path, "depth"))


def _edges_png(path: Path) -> Tensor:
    return _edges(read_label_image(path)[None])


def _edges_npy(path: Path) -> Tensor:
    return _edges(read_npy_maps(path))


def _edges(strength: Tensor) -> Tensor:
    """Returns 1 where a map has more than half of its largest value, which may be 1 or 255, and 0 elsewhere.

    Values that are not finite become NaN, so that the checks refuse the file: with a single one, the map would have no
    edge.
    """
    return (strength * 2 > strength.max()).float().where(strength.isfinite(), torch.nan)


VARIANTS: dict[str, Variant] = {
    "ASTMT": {
        "image": (".jpg", read_image),
        "semantic": (".mat", _labels_mat),
        "depth": (".mat", _depth_mat),
        "normals": (".jpg", read_image_normals),
        "edges": (".png", _edges_png),
    },
    "MTI-Net": {
        "image": (".jpg", read_image),
        "semantic": (".png", _labels_png),
        "depth": (".npy", read_npy_depth),
        "normals": (".npy", read_npy_normals),
        "edges": (".npy", _edges_npy),
    },
    "InvPT": {
        "image": (".png", read_image),
        "semantic": (".png", _labels_png),
        "depth": (".npy", read_npy_depth),
        "normals": (".png", read_image_normals),
        "edges": (".png", _edges_png),
    },
}
