"""NYUD as MTAN's arrays: targets, zooms, and files that are missing or broken."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.augmented import Augmented
from gate2static.errors import DataError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

HEIGHT, WIDTH = 288, 384


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training and two test images in MTAN's layout; the label is 3, or -1 in the first row."""
    for split, count in (("train", 3), ("val", 2)):
        for folder, channels in (("image", 3), ("label", 0), ("depth", 1), ("normal", 3)):
            (tmp_path / split / folder).mkdir(parents=True)
            for index in range(count):
                array = np.full((HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH), 0.6)
                if folder == "label":
                    array[:] = 3
                    array[0] = -1
                if folder == "normal":
                    array[..., 2] = 0
                if folder == "depth":
                    array *= index
                np.save(tmp_path / split / folder / f"{index}.npy", array.astype(np.float32))
    return tmp_path


def load(root: Path, **options: Option) -> Splits:
    return load_data(DataRecipe(name="nyud_mtan", options={"root": str(root), **options}))


def test_samples_are_what_the_description_says(root: Path) -> None:
    spec = describe_data(DataRecipe(name="nyud_mtan", options={"root": "/nowhere"}))
    splits = load(root)
    for data in (splits.train, splits.test):
        image, targets = data[1]
        assert tuple(image.shape) == spec.image_shape
        assert set(targets) == set(spec.targets)
        assert targets["semantic"].dtype == torch.int64
        assert targets["depth"].shape == (1, HEIGHT, WIDTH)
    _, targets = splits.test[1]
    assert targets["semantic"].unique().tolist() == [3, 255]
    assert targets["semantic"][0].unique().tolist() == [255]
    assert targets["depth"].unique().tolist() == [pytest.approx(0.6)]
    assert torch.allclose(targets["normals"].norm(dim=0), torch.ones(HEIGHT, WIDTH))
    assert torch.allclose(targets["normals"][:, 5, 5], torch.tensor([0.5**0.5, 0.5**0.5, 0]))


def test_a_sample_of_which_no_depth_is_known_is_fine(root: Path) -> None:
    assert bool((load(root).test[0][1]["depth"] == 0).all())


def test_its_val_folder_is_the_test_set(root: Path) -> None:
    splits = load(root, val_images=1)
    assert [len(data) for data in (splits.train, splits.val, splits.test)] == [2, 1, 2]  # type: ignore[arg-type]
    splits = load(root)
    assert [len(data) for data in (splits.train, splits.val, splits.test)] == [3, 2, 2]  # type: ignore[arg-type]


def test_training_images_are_zoomed_and_mirrored(root: Path) -> None:
    train = load(root).train
    assert isinstance(train, Augmented)
    depths, sides = set(), set()
    for epoch in range(12):
        train.set_epoch(epoch)
        targets = train[1][1]
        depths.add(round(float(targets["depth"].max()), 3))
        sides.add(float(targets["normals"][0, 9, 9]) > 0)
    assert depths == {0.6, 0.5, 0.4}
    assert sides == {True, False}
    assert not isinstance(load(root, augment=False).train, Augmented)


def test_training_images_are_cropped_anywhere(root: Path) -> None:
    ramp = np.broadcast_to(np.arange(1, HEIGHT + 1)[:, None, None], (HEIGHT, WIDTH, 1))
    np.save(root / "train" / "depth" / "1.npy", ramp.astype(np.float32))
    train = load(root).train
    assert isinstance(train, Augmented)
    tops = set()
    for epoch in range(12):
        train.set_epoch(epoch)
        tops.add(float(train[1][1]["depth"][0, 0, 0]))
    assert len(tops) > 3, "as many as there are zooms: always the centre"


def test_splits_can_be_sent_to_a_worker(root: Path) -> None:
    train = load(root).train
    assert torch.equal(pickle.loads(pickle.dumps(train))[0][0], train[0][0])


def test_a_half_unpacked_folder_names_the_first_missing_file(root: Path) -> None:
    (root / "train" / "depth" / "1.npy").unlink()
    with pytest.raises(DataError, match=r"train/depth/1\.npy is missing; the folder has the MTAN NYUD-v2 layout"):
        load(root)
    shutil.rmtree(root / "train" / "image")
    with pytest.raises(DataError, match=r"train/image/0\.npy is missing"):
        load(root)


def test_another_folder_is_refused_with_what_was_expected(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/train: no MTAN NYUD-v2 data; expected image/0\.npy, label/0\.npy"):
        load(root / "train")
    with pytest.raises(DataError, match=r"data\.options\.root: found .*nowhere, which is not a folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "array", "match"),
    [
        ("label", np.full((HEIGHT, WIDTH), 13.0), "semantic holds label 13; allowed: 0 to 12, and 255 to ignore"),
        ("label", np.full((HEIGHT, WIDTH), -2.0), "semantic holds label -2"),
        ("label", np.full((HEIGHT, WIDTH), np.nan), "found the labels nan; allowed: whole numbers"),
        ("label", np.full((HEIGHT, WIDTH), 2.5), "found the labels 2.5; allowed: whole numbers"),
        ("label", np.zeros((HEIGHT, 5)), r"semantic has shape \(288, 5\); its image asks for \(288, 384\)"),
        ("image", np.full((HEIGHT, WIDTH, 3), 200.0), "found image values from 200 to 200; allowed: 0 to 1"),
        ("image", np.zeros((3, HEIGHT, WIDTH)), r"found an image of shape \(384, 3, 288\)"),
        ("depth", np.zeros((HEIGHT, WIDTH, 2)), r"depth has shape \(2, 288, 384\)"),
    ],
)
def test_a_broken_file_is_named(root: Path, file: str, array: np.ndarray, match: str) -> None:
    np.save(root / "val" / file / "1.npy", array)
    with pytest.raises(DataError, match=rf"val/{file}/1\.npy: {match}"):
        load(root).test[1]


def test_an_image_of_another_size_is_named(root: Path) -> None:
    for folder, shape in (("image", (9, 8, 3)), ("label", (9, 8)), ("depth", (9, 8, 1)), ("normal", (9, 8, 3))):
        np.save(root / "val" / folder / "1.npy", np.zeros(shape))
    with pytest.raises(DataError, match=r"val/image/1\.npy: found an image of 9×8 .*; allowed: 288×384"):
        load(root).test[1]


def test_normals_follow_the_zoom_whether_or_not_depth_is_wanted(root: Path) -> None:
    for index in range(3):
        np.save(root / "train" / "normal" / f"{index}.npy", np.full((HEIGHT, WIDTH, 3), (0.6, 0, 0.8), np.float32))
    recipe = DataRecipe(name="nyud_mtan", options={"root": str(root)})
    alone, both = (load_data(recipe, targets=wanted).train for wanted in (["normals"], ["normals", "depth"]))
    assert torch.equal(alone[0][1]["normals"], both[0][1]["normals"])
    found = {round(float(alone[i][1]["normals"][2, 100, 100]), 3) for i in range(3) if not alone.set_epoch(i)}  # type: ignore[attr-defined]
    assert len(found) > 1


def test_files_of_targets_that_are_not_wanted_may_be_missing(root: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(root / split / "normal")
    splits = load_data(DataRecipe(name="nyud_mtan", options={"root": str(root)}), targets=["semantic", "depth"])
    assert set(splits.train[0][1]) == {"semantic", "depth"}
    with pytest.raises(DataError, match=r"normal/0\.npy is missing"):
        load(root)
