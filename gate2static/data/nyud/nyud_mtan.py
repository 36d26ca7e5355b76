"""NYUD-v2 as prepared for MTAN (Liu et al., 2019): 288×384, 13 classes, depth, normals; 795 training, 654 test images.

```
ROOT/train/image/0.npy …   float (288, 384, 3) in [0, 1]
     train/label/0.npy …   (288, 384): 0 to 12, -1 where there is no label
     train/depth/0.npy …   (288, 384, 1) in metres, 0 where it is unknown
     train/normal/0.npy …  (288, 384, 3), zero where it is unknown
     val/…                 the same: the test set
```
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from gate2static.data.contract import IGNORE, DataSpec, Splits, TargetSpec
from gate2static.data.decoding import read_npy, read_npy_depth, read_npy_maps, read_npy_normals, whole_labels
from gate2static.data.files import Files, FileSamples, HoldOutOptions, existing_root, file_splits, require_files, wanted
from gate2static.data.transforms import Augmentation, one_of
from gate2static.errors import DataError

LAYOUT = "MTAN NYUD-v2"
CLASSES = (
    *("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv", "wall"),
    "window",
)
SPEC = DataSpec(
    image_shape=(3, 288, 384),
    targets={
        "semantic": TargetSpec(kind="semantic", channels=len(CLASSES), classes=CLASSES),
        "depth": TargetSpec(kind="depth", channels=1),
        "normals": TargetSpec(kind="normals", channels=3),
    },
)
FOLDERS = {"image": "image", "semantic": "label", "depth": "depth", "normals": "normal"}


def describe(options: HoldOutOptions) -> DataSpec:
    """Describes images of 288×384 with three maps."""
    return SPEC


def load(options: HoldOutOptions, spec: DataSpec) -> Splits:
    """Lists the files of both folders.

    Training images are zoomed by 1, 1.2 or 1.5 at a random place and mirrored, as in MTAN's own code.

    Raises:
        DataError: The folder has another layout, or a file is missing.
    """
    root = existing_root(options)
    augment = Augmentation(kinds=SPEC.kinds, zoom=one_of(1.0, 1.2, 1.5), off_centre=True)
    make = partial(FileSamples, readers=READERS, spec=spec)
    train, test = (_files(root / split, wanted(FOLDERS, spec)) for split in ("train", "val"))
    return file_splits(train, test, make, augment, options)


def _files(folder: Path, folders: Mapping[str, str]) -> list[Files]:
    """Returns the files of a split, which are numbered from 0 to the highest number in any folder."""
    # A gap in the numbers is a missing file, so the highest number decides.
    numbers = []
    for subfolder in folders.values():
        stems = [path.stem for path in (folder / subfolder).glob("*.npy")]
        numbers += [int(stem) for stem in stems if stem.isdecimal()]
    if not numbers:
        examples = ", ".join(f"{subfolder}/0.npy" for subfolder in folders.values())
        raise DataError(
            f"{folder}: no {LAYOUT} data; expected {examples} and so on; "
            "give the folder that holds train and val as data.options.root"
        )
    files: list[Files] = []
    for number in range(max(numbers) + 1):
        files.append({part: folder / subfolder / f"{number}.npy" for part, subfolder in folders.items()})
    require_files(LAYOUT, (path for sample in files for path in sample.values()))
    return files


def _labels(path: Path) -> Tensor:
    labels = whole_labels(path, read_npy(path))
    return labels.where(labels != -1, IGNORE)


READERS = {"image": read_npy_maps, "semantic": _labels, "depth": read_npy_depth, "normals": read_npy_normals}
