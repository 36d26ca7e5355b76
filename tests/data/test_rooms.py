"""Rooms of real furniture: what samples hold, both sets of classes, and files that are missing or broken."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.augmented import Augmented
from gate2static.data.in_memory import InMemory
from gate2static.data.rooms import CLASSES
from gate2static.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from gate2static.errors import DataError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

SIZE = (96, 128)
COUNTS = {"train": 3, "val": 1, "test": 2}
NORMAL = (-0.6, 0.0, 0.8)


def write(folder: Path, name: str, size: tuple[int, int] = SIZE) -> None:
    """Writes one sample: grey; the ids 0 to 19 as columns; 2.5 m, unknown at the top; facing left."""
    height, width = size
    ids = np.broadcast_to(np.arange(width) * 20 // width, size)
    depth = np.full(size, 2500, dtype=np.uint16)
    depth[: height // 24] = 0
    normals = np.rint((np.array(NORMAL) + 1) * 127.5)
    pictures = {
        "image/{}.jpg": np.full((height, width, 3), 128, dtype=np.uint8),
        "label/{}.png": ids.astype(np.uint8),
        "depth/{}.png": depth,
        "normals/{}.png": np.broadcast_to(normals, (height, width, 3)).astype(np.uint8),
    }
    for place, values in pictures.items():
        path = folder / place.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(values)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny copy."""
    for split, count in COUNTS.items():
        for index in range(count):
            write(tmp_path / split, f"{index:06}")
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES[20]))
    return tmp_path


def load(root: Path, **options: Option) -> Splits:
    return load_data(DataRecipe(name="rooms", options={"root": str(root), **options}))


@pytest.mark.parametrize("stored", [SIZE, (192, 256)])
def test_samples_are_what_the_description_says_at_any_size(root: Path, stored: tuple[int, int]) -> None:
    write(root / "test", "000001", stored)
    splits = load(root)
    spec = describe_data(DataRecipe(name="rooms", options={"root": "/nowhere"}))
    assert [len(data) for data in (splits.train, splits.val, splits.test)] == list(COUNTS.values())  # type: ignore[arg-type]
    image, targets = splits.test[1]
    assert tuple(image.shape) == spec.image_shape == (3, *SIZE)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(image * std + mean, torch.tensor(128 / 255), atol=1e-6)
    assert set(targets) == set(spec.targets)
    assert targets["semantic"].dtype == torch.int64
    assert targets["semantic"][50].unique().tolist() == list(range(20))
    assert targets["depth"][0, 4:].unique().tolist() == [2.5], "metres"
    assert targets["depth"][0, :4].unique().tolist() == [0]
    assert torch.allclose(targets["normals"][:, 9, 9], torch.tensor(NORMAL), atol=0.01)
    assert float((targets["normals"].norm(dim=0) - 1).abs().max()) < 1e-4


def test_classes_merge_to_those_of_nyud(root: Path) -> None:
    names = describe_data(DataRecipe(name="rooms", options={"root": "", "classes": 13})).targets["semantic"].classes
    labels = load(root, classes=13).val[0][1]["semantic"][0]
    columns = [int(labels[int((number + 0.5) * SIZE[1] / 20)]) for number in range(20)]
    merged = (
        "wall floor ceiling bed sofa chair table furniture furniture tv picture window window objects objects objects "
        "objects objects objects books"
    )
    assert [names[column] for column in columns] == merged.split()
    assert len(names) == 13


def test_training_images_are_zoomed_and_mirrored_unless_that_is_switched_off(root: Path) -> None:
    train = load(root).train
    assert isinstance(train, Augmented)
    seen = set()
    for epoch in range(12):
        train.set_epoch(epoch)
        targets = train[0][1]
        seen.add((float(targets["normals"][0, 60, 60]) < 0, round(float(targets["depth"].max()), 3)))
    assert {depth for _, depth in seen} == {2.5, round(2.5 / 1.2, 3), round(2.5 / 1.5, 3)}
    assert {mirrored for mirrored, _ in seen} == {False, True}
    assert isinstance(load(root, augment=False).train, InMemory)


def test_files_are_read_once(root: Path) -> None:
    data = load(root).test
    (root / "test" / "image" / "000000.jpg").unlink()
    assert len(data[0][1]) == 3


def test_files_of_unwanted_targets_are_not_needed(root: Path) -> None:
    for path in root.glob("*/normals/*.png"):
        path.unlink()
    recipe = DataRecipe(name="rooms", options={"root": str(root)})
    assert set(load_data(recipe, targets=["depth"]).test[0][1]) == {"depth"}
    with pytest.raises(DataError, match=r"train/normals/000000\.png is missing; the folder has the rooms layout"):
        load_data(recipe)


def test_another_folder_is_not_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.json is missing; the rooms folder holds it beside train, val"):
        load(tmp_path)
    (tmp_path / "classes.json").write_text('["wall"]')
    with pytest.raises(DataError, match=r"classes\.json: names other classes than those of rooms; allowed: wall"):
        load(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES[20]))
    with pytest.raises(DataError, match=r"train: no rooms data; expected image/\*\.jpg, label/\*\.png"):
        load(tmp_path)


def test_a_label_out_of_range_is_named(root: Path) -> None:
    Image.fromarray(np.full(SIZE, 20, dtype=np.uint8)).save(root / "val" / "label" / "000000.png")
    with pytest.raises(DataError, match=r"val/label/000000\.png: found the label id 20; allowed: 0 to 19"):
        load(root)
