"""Cityscapes as MTAN's arrays and as the official archives, and files that are missing or broken."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.cityscapes import CLASSES, TRAIN_CLASSES
from gate2static.data.contract import IGNORE
from gate2static.errors import DataError, RecipeError
from gate2static.recipe import DataRecipe

H, W = 32, 64
COUNTS = {"train": 3, "val": 2}
CITIES = {"train": ("aachen", "bochum"), "val": ("munster",)}


def mtan_tree(root: Path) -> Path:
    """A tiny MTAN folder: left half class 1 at inverse depth 0.5, right half void and unknown."""
    for split, count in COUNTS.items():
        for folder in ("image", "label_7", "label_19", "depth"):
            (root / split / folder).mkdir(parents=True)
        for number in range(count):
            image = np.full((H, W, 3), 0.25 * number, np.float32)
            labels = np.full((H, W), -1.0)
            depth = np.zeros((H, W, 1))
            labels[:, : W // 2], depth[:, : W // 2] = 1, 0.5
            np.save(root / split / "image" / f"{number}.npy", image)
            np.save(root / split / "label_7" / f"{number}.npy", labels)
            np.save(root / split / "label_19" / f"{number}.npy", np.where(labels == 1, 18, labels))
            np.save(root / split / "depth" / f"{number}.npy", depth)
    return root


def instance_ids() -> np.ndarray:
    """Two cars in the left half, one above the other; on the right a group and a trailer, no instances of a class."""
    ids = np.full((2 * H, 2 * W), 1, np.uint16)
    ids[:H, :W], ids[H:, :W] = 26000, 26001
    ids[:H, W : W + 8], ids[H:, W : W + 8] = 26, 29000
    return ids


def official_tree(root: Path) -> Path:
    """A tiny official tree at twice the size: left half car with a disparity of 8 pixels, right half ego vehicle."""
    for split, cities in CITIES.items():
        for city in cities:
            name = f"{city}_000000_000019"
            folders = {part: root / part / split / city for part in ("leftImg8bit", "gtFine", "disparity")}
            for folder in folders.values():
                folder.mkdir(parents=True)
            ids, disparity = np.full((2 * H, 2 * W), 1, np.uint8), np.zeros((2 * H, 2 * W), np.uint16)
            ids[:, :W], disparity[:, :W] = 26, 8 * 256 + 1
            Image.new("RGB", (2 * W, 2 * H), (10, 20, 30)).save(folders["leftImg8bit"] / f"{name}_leftImg8bit.png")
            Image.fromarray(ids).save(folders["gtFine"] / f"{name}_gtFine_labelIds.png")
            Image.fromarray(instance_ids()).save(folders["gtFine"] / f"{name}_gtFine_instanceIds.png")
            Image.fromarray(disparity).save(folders["disparity"] / f"{name}_disparity.png")
    return root


@pytest.fixture
def mtan(tmp_path: Path) -> Path:
    return mtan_tree(tmp_path)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return official_tree(tmp_path)


def splits(root: Path, **options: object) -> Splits:
    return load_data(
        DataRecipe(name="cityscapes", options={"root": str(root), "augment": False, "size": (H, W), **options})  # type: ignore[dict-item]
    )


def sizes(data: Splits) -> tuple[int, ...]:
    return tuple(len(split) for split in (data.train, data.val, data.test))  # type: ignore[arg-type]


@pytest.mark.parametrize("tree", [mtan_tree, official_tree])
def test_samples_are_what_the_description_says(tree: type, tmp_path: Path) -> None:
    recipe = DataRecipe(name="cityscapes", options={"root": str(tree(tmp_path)), "size": (H, W)})
    spec, data = describe_data(recipe), load_data(recipe)
    for split in (data.train, data.val, data.test):
        image, targets = split[0]
        assert image.shape == spec.image_shape == (3, H, W)
        assert targets["semantic"].shape == (H, W)
        assert targets["semantic"].dtype == torch.int64
        assert targets["depth"].shape == (1, H, W)
        assert targets["depth"].dtype == torch.float32


def test_classes_are_torchvisions() -> None:
    from torchvision.datasets import Cityscapes

    known = sorted((c for c in Cityscapes.classes if 0 <= c.train_id < 19), key=lambda c: c.train_id)
    assert tuple((c.name, c.id, c.category) for c in known) == TRAIN_CLASSES
    assert CLASSES[7] == ("flat", "construction", "object", "nature", "sky", "human", "vehicle")


@pytest.mark.parametrize(("classes", "label"), [(7, 1), (19, 18)])
def test_mtan_arrays_are_read_as_they_are(mtan: Path, classes: int, label: int) -> None:
    data = splits(mtan, classes=classes)
    assert sizes(data) == (3, 2, 2)
    _, targets = data.train[2]
    assert targets["semantic"][0, [0, -1]].tolist() == [label, IGNORE]
    assert targets["depth"][0, 0, [0, -1]].tolist() == [0.5, 0]


def test_numbers_are_ordered_as_numbers(mtan: Path) -> None:
    for folder in ("image", "label_7", "depth"):
        shutil.copy(mtan / "train" / folder / "0.npy", mtan / "train" / folder / "10.npy")
    files = splits(mtan).train.files  # type: ignore[attr-defined]
    assert [sample["image"].stem for sample in files] == ["0", "1", "2", "10"]


def test_a_folder_named_label_holds_the_seven_classes(mtan: Path) -> None:
    for split in COUNTS:
        (mtan / split / "label_7").rename(mtan / split / "label")
    assert splits(mtan).train[0][1]["semantic"][0, 0] == 1


@pytest.mark.parametrize(("classes", "name"), [(7, "vehicle"), (19, "car")])
def test_official_ids_become_the_evaluated_classes(official: Path, classes: int, name: str) -> None:
    data = splits(official, classes=classes)
    assert sizes(data) == (2, 1, 1)
    labels = data.train[0][1]["semantic"]
    assert CLASSES[classes][labels[0, 0]] == name
    assert labels[0, -1] == IGNORE


def test_disparity_is_in_pixels_of_the_resized_picture(official: Path) -> None:
    assert splits(official).train[0][1]["depth"][0, 0, [0, -1]].tolist() == [4, 0]
    assert splits(official, size=(2 * H, 2 * W)).train[0][1]["depth"][0, 0, 0] == 8


def test_offsets_are_shares_of_the_image_from_the_instances_centre(official: Path) -> None:
    offsets = splits(official, instances=True, size=(2 * H, 2 * W)).train[0][1]["instance_offsets"]
    assert offsets.shape == (2, 2 * H, 2 * W)
    # Each car is W wide and H high; its centre lies between two pixels.
    assert offsets[:, 0, 0].tolist() == pytest.approx([-(W - 1) / 2 / (2 * W), -(H - 1) / 2 / (2 * H)])
    assert offsets[:, H - 1, W - 1].tolist() == pytest.approx([(W - 1) / 2 / (2 * W), (H - 1) / 2 / (2 * H)])
    assert torch.equal(offsets[:, :H, :W], offsets[:, H:, :W])
    assert set(offsets[:, :, W:].unique().tolist()) == {IGNORE}


def test_offsets_do_not_depend_on_the_size_of_the_image(official: Path) -> None:
    small = splits(official, instances=True).train[0][1]["instance_offsets"]
    large = splits(official, instances=True, size=(2 * H, 2 * W)).train[0][1]["instance_offsets"]
    assert float((small - large[:, ::2, ::2]).abs().max()) <= 1 / (2 * H)


def test_instances_that_arrays_lack_are_refused(mtan: Path) -> None:
    with pytest.raises(DataError, match="found MTAN's arrays, which hold no instances; give the official tree"):
        splits(mtan, instances=True)


def test_instance_ids_out_of_range_are_named(official: Path) -> None:
    path = next((official / "gtFine/train/aachen").glob("*instanceIds.png"))
    Image.fromarray(np.full((2 * H, 2 * W), 34000, np.uint16)).save(path)
    with pytest.raises(DataError, match="found the instance id 34000; allowed: 0 to 33999, as in instanceIds files"):
        splits(official, instances=True).train[0]


@pytest.mark.parametrize("tree", [mtan_tree, official_tree])
def test_a_zoom_multiplies_inverse_depth(tree: type, tmp_path: Path) -> None:
    plain = splits(tree(tmp_path)).train[0][1]["depth"].max()
    data = splits(tmp_path, augment=True).train
    found = set()
    for epoch in range(12):
        data.set_epoch(epoch)  # type: ignore[attr-defined]
        depth = pickle.loads(pickle.dumps(data))[0][1]["depth"]
        assert torch.isfinite(depth).all()
        found |= {round(float(value / plain), 3) for value in depth[depth > 0].unique()}
    assert found == {1.0, 1.2, 1.5}


@pytest.mark.parametrize("tree", [mtan_tree, official_tree])
def test_held_out_images_leave_the_training_data(tree: type, tmp_path: Path) -> None:
    data = splits(tree(tmp_path), val_images=1)
    assert sizes(data)[1] == 1
    assert data.val.files[0] not in data.train.files  # type: ignore[attr-defined]


def test_another_folder_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    with pytest.raises(DataError, match="no data set was recognised; allowed: MTAN's folder .* leftImg8bit"):
        splits(tmp_path)


def test_mtans_nyud_is_named_as_what_it_is(mtan: Path) -> None:
    for split in COUNTS:
        (mtan / split / "label_7").rename(mtan / split / "label")
    np.save(mtan / "train/image/0.npy", np.zeros((288, 384, 3), np.float32))
    with pytest.raises(DataError, match=r"found 288 × 384, the size of MTAN's NYUD-v2; its data set is nyud_mtan"):
        splits(mtan)


@pytest.mark.parametrize("missing", ["train/label_7/1.npy", "train/image/2.npy", "val/depth/0.npy"])
def test_a_missing_array_is_named_with_the_layout(mtan: Path, missing: str) -> None:
    (mtan / missing).unlink()
    with pytest.raises(DataError, match=f"{missing} is missing; the folder has the MTAN CityScapes layout"):
        splits(mtan)


def test_a_missing_split_or_label_set_is_half_unpacked(mtan: Path) -> None:
    shutil.rmtree(mtan / "train" / "label_19")
    with pytest.raises(DataError, match=r"train/label_19/0.npy is missing.*MTAN"):
        splits(mtan, classes=19)
    shutil.rmtree(mtan / "val")
    with pytest.raises(DataError, match=r"val/image/0.npy is missing.*MTAN"):
        splits(mtan)


@pytest.mark.parametrize("part", ["leftImg8bit", "gtFine", "disparity"])
def test_a_missing_official_file_is_named_with_the_layout(official: Path, part: str) -> None:
    next((official / part / "train" / "bochum").glob(f"*{'labelIds' if part == 'gtFine' else part}.png")).unlink()
    with pytest.raises(DataError, match=f"{part}/train/bochum/bochum_000000_000019_.* official CityScapes layout"):
        splits(official)


def test_missing_official_archives_are_named(official: Path) -> None:
    shutil.rmtree(official / "disparity")
    with pytest.raises(DataError, match="disparity/train/aachen/aachen_000000_000019_disparity.png is missing"):
        splits(official)
    for part in ("leftImg8bit", "gtFine"):
        shutil.rmtree(official / part / "train")
    with pytest.raises(DataError, match=r"leftImg8bit/train holds no CITY/\*_leftImg8bit.png; .* official"):
        splits(official)


def test_labels_out_of_range_are_named(mtan: Path) -> None:
    np.save(mtan / "train/label_7/0.npy", np.full((H, W), 7.0))
    with pytest.raises(DataError, match="0.npy: semantic holds label 7; allowed: 0 to 6, and 255 to ignore"):
        splits(mtan).train[0]


def test_labels_that_are_not_whole_are_named(mtan: Path) -> None:
    np.save(mtan / "train/label_7/0.npy", np.full((H, W), 1.5))
    with pytest.raises(DataError, match=r"label_7/0\.npy: found the labels 1\.5; allowed: whole numbers"):
        splits(mtan).train[0]


def test_ids_that_cityscapes_lacks_are_named(official: Path) -> None:
    path = next((official / "gtFine/train/aachen").glob("*labelIds.png"))
    Image.fromarray(np.full((2 * H, 2 * W), 77, np.uint8)).save(path)
    with pytest.raises(DataError, match="found the label id 77; allowed: 0 to 33 and 255"):
        splits(official).train[0]


def test_sizes_that_differ_are_named(mtan: Path) -> None:
    with pytest.raises(DataError, match=r"size: found \[128, 256\], but .*0.npy is 32 × 64; write size: \[32, 64\]"):
        splits(mtan, size=(128, 256))
    np.save(mtan / "train/depth/1.npy", np.zeros((H, 9, 1)))
    with pytest.raises(DataError, match=r"1.npy: depth has shape \(1, 32, 9\); its image asks for \(1, 32, 64\)"):
        splits(mtan).train[1]
    np.save(mtan / "train/image/2.npy", np.zeros((9, 9, 3)))
    with pytest.raises(DataError, match=r"2\.npy: semantic has shape \(32, 64\); its image asks for \(9, 9\)"):
        splits(mtan).train[2]


def test_arrays_of_objects_are_not_unpickled(mtan: Path) -> None:
    np.save(mtan / "train/depth/0.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"depth/0\.npy: cannot be read as an array of numbers .*OBJECT array"):
        splits(mtan).train[0]


def test_impossible_options_are_rejected() -> None:
    with pytest.raises(RecipeError, match="classes: found 2"):
        describe_data(DataRecipe(name="cityscapes", options={"root": "x", "classes": 2}))


@pytest.mark.parametrize("tree", [mtan_tree, official_tree])
@pytest.mark.parametrize("wanted", ["semantic", "depth"])
def test_every_target_can_be_had_alone(tree: type, wanted: str, tmp_path: Path) -> None:
    recipe = DataRecipe(name="cityscapes", options={"root": str(tree(tmp_path)), "size": (H, W)})
    assert set(load_data(recipe, targets=[wanted]).train[0][1]) == {wanted}
