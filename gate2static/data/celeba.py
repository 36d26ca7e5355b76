"""CelebA (Liu et al., 2015): 202,599 aligned faces with 40 attributes; each task has some of the attributes.

Each file is found in any of the places where the usual copies have it: in ROOT itself, in ROOT/celeba as for
torchvision, or in the folder in brackets as in the authors' archive.

```
img_align_celeba/000001.jpg …       178×218 (Img/); Kaggle's copy has img_align_celeba/img_align_celeba/
list_attr_celeba.txt or .csv        (Anno/) an optional line with the number of images, a line with the names of the
                                    attributes, then one line per image: its file and 40 times 1 or -1
list_eval_partition.txt or .csv     (Eval/) one line per image: its file and 0 (train), 1 (val) or 2 (test)
```
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.utils.data import Dataset

from gate2static.data.augmented import with_augmentation
from gate2static.data.checks import check_size
from gate2static.data.contract import DataSpec, Sample, Splits, TargetSpec
from gate2static.data.decoding import read_image
from gate2static.data.files import FileOptions, existing_root, read_lines, require_files
from gate2static.data.transforms import Augmentation, normalise, resize
from gate2static.errors import DataError
from gate2static.recipe.parsing import suggest

LAYOUT = "CelebA"
SIZE = (218, 178)
"""The height and width of aligned images."""
ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)
GROUPS = {
    "age": ("Young",),
    "gender": ("Male",),
    "clothes": ("Wearing_Earrings", "Wearing_Hat", "Wearing_Necklace", "Wearing_Necktie"),
}
PARTITION = {"0": "train", "1": "val", "2": "test"}


class CelebaOptions(FileOptions):
    """The options of CelebA: the attributes of each task, and the size of images."""

    augment: bool = False
    """Whether to mirror half of the training images; the paper names no augmentation for CelebA."""
    image_size: Annotated[int, Field(ge=8, le=178)] = 32
    """The height and width that images are resized to (paper, section A.1)."""
    groups: Annotated[dict[str, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)] = GROUPS
    """The attributes of each task. "Clothes" is not an attribute of CelebA (docs/paper.md, note 7); by default it means
    everything worn except make-up."""

    @field_validator("groups")
    @classmethod
    def _attributes_exist(cls, groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for task, names in groups.items():
            if len(set(names)) < len(names):
                raise ValueError(f"{task} names an attribute twice")
            for name in names:
                if name not in ATTRIBUTES:
                    raise ValueError(f"{task}: CelebA has no attribute {name}; {suggest(name, ATTRIBUTES)}")
        return groups


class Faces(Dataset[Sample]):
    """Aligned images, which are read on access, with their attributes, which are held in memory.

    Args:
        folder: The folder of the images.
        names: The names of the N files.
        targets: By task, float attributes (N, attributes) of 0 and 1.
        size: The height and width that images are resized to.
    """

    def __init__(self, folder: Path, names: Sequence[str], targets: Mapping[str, Tensor], size: int) -> None:
        self.folder = folder
        self.names = names
        self.targets = targets
        self.size = size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        path = self.folder / self.names[index]
        image = read_image(path)
        check_size(image, path, SIZE)
        image, _ = resize((image, {}), {}, (self.size, self.size))
        return normalise(image), {task: target[index] for task, target in self.targets.items()}


def describe(options: CelebaOptions) -> DataSpec:
    """Describes square images with one group of binary attributes per task."""
    return DataSpec(
        image_shape=(3, options.image_size, options.image_size),
        targets={
            task: TargetSpec(kind="attributes", channels=len(names), classes=names)
            for task, names in options.groups.items()
        },
    )


def load(options: CelebaOptions, spec: DataSpec) -> Splits:
    """Reads both tables and checks that every image of theirs exists.

    Raises:
        DataError: A table or an image is missing, or a table holds a value that is not allowed.
    """
    root = existing_root(options)
    partition_file = _find(root, "list_eval_partition.txt", "list_eval_partition.csv", within="Eval")
    attributes_file = _find(root, "list_attr_celeba.txt", "list_attr_celeba.csv", within="Anno")
    folder = _find(root, "img_align_celeba/img_align_celeba", "img_align_celeba", within="Img")
    partition = _read_partition(partition_file)
    require_files(LAYOUT, (folder / name for name in partition))
    groups = {task: target.classes for task, target in spec.targets.items()}
    selected = [name for names in groups.values() for name in names]
    attributes = _read_attributes(attributes_file, selected)
    unknown = next((name for name in partition if name not in attributes), None)
    if unknown is not None:
        raise DataError(f"{attributes_file}: no line for {unknown}, which {partition_file.name} names; unpack it again")

    def split(part: str) -> Faces:
        names = [name for name, image_part in partition.items() if image_part == part]
        if not names:
            raise DataError(f"{partition_file}: no image is marked as {part} data; unpack it again")
        # (images, attributes of all tasks); each task has some of the columns
        table = torch.tensor([attributes[name] for name in names], dtype=torch.float32)
        columns = table.split([len(group) for group in groups.values()], dim=1)
        return Faces(folder, names, dict(zip(groups, columns, strict=True)), options.image_size)

    train, val, test = (split(part) for part in PARTITION.values())
    augment = Augmentation(kinds=dict.fromkeys(groups, "attributes"))
    augmented = with_augmentation(train, augment, enabled=options.augment, seed=options.seed)
    return Splits(train=augmented, val=val, test=test)


def _find(root: Path, *names: str, within: str) -> Path:
    """Returns the first of these names that exists in one of the places where copies have it."""
    places = [base / sub for base in (root, root / "celeba") for sub in ("", within)]
    for path in (place / name for place in places for name in names):
        if path.exists():
            return path
    raise DataError(
        f"{root}: no {' or '.join(names)} in it, in {within} or in celeba; the {LAYOUT} layout has it there: unpack it"
    )


def _cells(line: str) -> list[str]:
    """Returns the cells of a line, whose separators are blanks, commas or semicolons."""
    return re.split(r"[\s,;]+", line)


def _read_partition(path: Path) -> dict[str, str]:
    """Returns the split of each image, by file name."""
    partition: dict[str, str] = {}
    for number, line in enumerate(read_lines(LAYOUT, path), start=1):
        cells = _cells(line)
        if number == 1 and cells[0] == "image_id":
            continue
        if len(cells) != 2 or cells[1] not in PARTITION:
            raise DataError(f"{path}, line {number}: found {line[:60]!r}; allowed: a file name and 0, 1 or 2")
        partition[cells[0]] = PARTITION[cells[1]]
    return partition


def _read_attributes(path: Path, selected: Sequence[str]) -> dict[str, list[int]]:
    """Returns the selected attributes of each image as 0 and 1, by file name."""
    lines = read_lines(LAYOUT, path)
    # The authors' file begins with the number of images, Kaggle's does not.
    start = 1 if lines[0].isdigit() else 0
    names = _cells(lines[start]) if start < len(lines) else []
    names = names[1:] if names[:1] == ["image_id"] else names
    missing = next((name for name in selected if name not in names), None)
    if missing is not None:
        raise DataError(f"{path}, line {start + 1}: expected the names of the attributes, with {missing} among them")
    rows = lines[start + 1 :]
    if start and len(rows) != int(lines[0]):
        raise DataError(f"{path}: announces {int(lines[0])} images and has {len(rows)}; unpack it again")
    columns = [names.index(name) + 1 for name in selected]
    attributes: dict[str, list[int]] = {}
    for number, row in enumerate(rows, start=start + 2):
        cells = _cells(row)
        values = [cells[column] for column in columns] if len(cells) == len(names) + 1 else [""]
        if not {"1", "-1"}.issuperset(values):
            raise DataError(
                f"{path}, line {number}: found {row[:60]!r}; allowed: a file name and {len(names)} times 1 or -1"
            )
        attributes[cells[0]] = [int(value == "1") for value in values]
    return attributes
