"""CamVid: what samples hold, edges beside unlabelled pixels, and files that are missing or broken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.augmented import Augmented
from gate2static.data.boundaries import class_boundaries
from gate2static.data.camvid import CLASSES
from gate2static.data.in_memory import InMemory
from gate2static.errors import DataError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

SIZE = (48, 64)
COUNTS = {"train": 3, "val": 1, "test": 2}


def write(root: Path, split: str, name: str, size: tuple[int, int] = SIZE, suffix: str = ".png") -> None:
    """Writes one sample: sky in the upper half and road in the lower, and nothing labelled in the right half."""
    height, width = size
    labels = np.zeros(size, dtype=np.uint8)
    labels[height // 2 :] = 3
    labels[:, width // 2 :] = 11
    for folder, file, values in (
        (split, name + suffix, np.full((height, width, 3), 90, dtype=np.uint8)),
        (f"{split}annot", f"{name}.png", labels),
    ):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(values).save(root / folder / file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny copy; the test photographs are `.jpg` files."""
    for split, count in COUNTS.items():
        for index in range(count):
            write(tmp_path, split, f"0001TP_{index}", suffix=".jpg" if split == "test" else ".png")
    return tmp_path


def load(root: Path, **options: Option) -> Splits:
    return load_data(DataRecipe(name="camvid", options={"root": str(root), "size": SIZE, **options}))


@pytest.mark.parametrize("stored", [SIZE, (96, 128)])
def test_samples_are_what_the_description_says_at_any_size(root: Path, stored: tuple[int, int]) -> None:
    write(root, "test", "0001TP_1", stored, ".jpg")
    splits = load(root)
    spec = describe_data(DataRecipe(name="camvid", options={"root": "/nowhere", "size": SIZE}))
    assert [len(data) for data in (splits.train, splits.val, splits.test)] == list(COUNTS.values())  # type: ignore[arg-type]
    image, targets = splits.test[1]
    assert tuple(image.shape) == spec.image_shape == (3, *SIZE)
    labels = targets["semantic"]
    assert [CLASSES[int(labels[row, 5])] for row in (23, 24)] == ["sky", "road"]
    assert labels[:, 32:].unique().tolist() == [255]
    edges = targets["edges"][0]
    assert (edges == 1).nonzero().tolist() == [[23, column] for column in range(31)]
    assert (edges == 255).nonzero()[:, 1].unique().tolist() == list(range(31, 64)), "and the column beside the unknown"
    assert bool((edges[:, 31:] == 255).all())


def test_boundaries_are_one_pixel_wide_at_the_left_and_above() -> None:
    labels = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert class_boundaries(labels).tolist() == [[[0, 1, 0], [1, 1, 1], [0, 0, 0]]]


def test_training_images_are_augmented_unless_that_is_switched_off(root: Path) -> None:
    assert isinstance(load(root).train, Augmented)
    assert isinstance(load(root, augment=False).train, InMemory)
    assert isinstance(load(root).val, InMemory)


def test_only_the_wanted_targets_are_there(root: Path) -> None:
    recipe = DataRecipe(name="camvid", options={"root": str(root), "size": SIZE})
    assert set(load_data(recipe, targets=["edges"]).test[0][1]) == {"edges"}


@pytest.mark.parametrize("gone", ["valannot/0001TP_0.png", "test/0001TP_1.jpg"])
def test_a_missing_file_is_named(root: Path, gone: str) -> None:
    (root / gone).unlink()
    with pytest.raises(DataError, match=rf"{gone} is missing; the folder has the CamVid layout, half unpacked"):
        load(root)


def test_another_folder_is_not_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no CamVid data in train and trainannot; allowed: SegNet's copy of CamVid"):
        load(tmp_path)


def test_a_label_out_of_range_is_named(root: Path) -> None:
    Image.fromarray(np.full(SIZE, 12, dtype=np.uint8)).save(root / "valannot" / "0001TP_0.png")
    with pytest.raises(DataError, match=r"0001TP_0\.png: semantic holds label 12; allowed: 0 to 10, and 255 to ignore"):
        load(root)
