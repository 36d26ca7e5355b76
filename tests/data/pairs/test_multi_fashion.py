"""MultiFashion from tiny copies of Fashion-MNIST's files: splits, composition, and files that are missing or broken."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gate2static.data import Splits, describe_data, load_data
from gate2static.data.pairs.multi_fashion import CLASSES
from gate2static.errors import DataError
from gate2static.recipe import DataRecipe
from gate2static.recipe.schema import Option

ITEMS = {"train": 24, "t10k": 6}
COUNTS = {"train_images": 30, "val_images": 5, "test_images": 7}
Build = Callable[..., Path]


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def photographs(part: str) -> np.ndarray:
    """Squares of 20×20, each with a brightness of its own: 20 to 43 in training, 100 to 105 in the test part."""
    bright = np.arange(ITEMS[part]) + (20 if part == "train" else 100)
    images = np.zeros((ITEMS[part], 28, 28), dtype=np.uint8)
    images[:, 4:24, 4:24] = bright[:, None, None]
    return images


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes a tiny copy of the four files; an item's label is the last digit of its brightness."""

    def make(folder: str = "", *, packed: bool = True) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for part in ITEMS:
            images = photographs(part)
            labels = (images.max(axis=(1, 2)) % 10).astype(np.uint8)
            for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
                content = gzip.compress(idx(values)) if packed else idx(values)
                (tmp_path / folder / (name + ".gz" * packed)).write_bytes(content)
        return tmp_path

    return make


def load(root: Path, **options: Option) -> Splits:
    return load_data(DataRecipe(name="multi_fashion", options={"root": str(root), **COUNTS, **options}))


def brightness(splits: Splits, name: str) -> set[int]:
    """The brightness of all items in a split: of the middles of the two corners, where only one item can be."""
    images = [getattr(splits, name)[index][0] for index in range(COUNTS[f"{name}_images"])]
    return {round(127.5 * float(image[0, at, at] + 1)) for image in images for at in (8, 28)}


@pytest.mark.parametrize(("folder", "packed"), [("", True), ("", False), ("raw", False), ("FashionMNIST/raw", True)])
def test_samples_are_what_the_description_says_in_every_copy(build: Build, folder: str, packed: bool) -> None:
    splits = load(build(folder, packed=packed))
    spec = describe_data(DataRecipe(name="multi_fashion", options={"root": "/nowhere"}))
    assert spec.targets["upper_left"].classes == CLASSES
    assert [len(data) for data in (splits.train, splits.val, splits.test)] == [30, 5, 7]  # type: ignore[arg-type]
    image, targets = splits.train[29]
    assert tuple(image.shape) == spec.image_shape == (1, 36, 36)
    assert set(targets) == set(spec.targets)
    assert targets["lower_right"].dtype == torch.int64
    assert targets["lower_right"].shape == ()


def test_the_brighter_item_wins_and_each_target_belongs_to_its_corner(build: Build) -> None:
    data = load(build()).train
    for index in range(30):
        image, targets = data[index]
        pixels = ((image[0] + 1) * 127.5).round().long()
        first, second = int(pixels[5, 5]), int(pixels[30, 30])
        assert (int(targets["upper_left"]), int(targets["lower_right"])) == (first % 10, second % 10)
        assert int(pixels[20, 20]) == max(first, second)
        expected = torch.zeros(1, 36, 36)
        expected[:, 4:24, 4:24] = 1
        assert torch.equal(targets["mask"], expected)


def test_no_photograph_is_in_two_splits(build: Build) -> None:
    splits = load(build())
    train, val, test = (brightness(splits, name) for name in ("train", "val", "test"))
    assert max(train | val) < 100 <= min(test)
    assert len(val) == 2, "a twelfth of the 24 training photographs"
    assert not train & val


def test_the_same_seed_gives_the_same_images_and_another_seed_others(build: Build) -> None:
    root = build()
    first, again, other = load(root), load(root), load(root, seed=1)
    assert torch.equal(first.train.images, again.train.images)  # type: ignore[attr-defined]
    assert not torch.equal(first.train.images, other.train.images)  # type: ignore[attr-defined]


def test_only_the_wanted_targets_are_there(build: Build) -> None:
    recipe = DataRecipe(name="multi_fashion", options={"root": str(build()), **COUNTS})
    assert set(load_data(recipe, targets=["mask"]).test[0][1]) == {"mask"}


def test_a_folder_without_the_files_says_where_they_are(build: Build, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte .*; .* Debian's package dataset-fashion-mnist"):
        load(tmp_path)
    (build() / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz in it"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("train-images-idx3-ubyte", b"", r"starts with nothing; allowed: 00 00 08 03"),
        ("train-images-idx3-ubyte", idx(np.zeros(3, np.uint8)), r"starts with 00 00 08 01; allowed: 00 00 08 03"),
        ("train-images-idx3-ubyte", idx(photographs("train"))[:-9], r"announces 24×28×28 bytes and has 18,807"),
        ("train-images-idx3-ubyte", idx(np.zeros((24, 8, 8), np.uint8)), r"found 24 × 8 × 8 bytes; allowed: .* 28×28"),
        ("train-labels-idx1-ubyte", idx(np.zeros(23, np.uint8)), r"found 23 labels; .* has 24 images"),
        ("train-labels-idx1-ubyte", idx(np.full(24, 10, np.uint8)), r"found label 10; allowed: 0 to 9"),
        ("t10k-images-idx3-ubyte", gzip.compress(bytes(99), mtime=0)[:20], r"cannot be read: Compressed file ended"),
    ],
)
def test_a_broken_file_is_named(build: Build, name: str, content: bytes, match: str) -> None:
    root = build(packed=False)
    (root / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: {match}"):
        load(root)
