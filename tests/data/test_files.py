"""Data sets of files: reading, resizing, held-out images, and the first missing file by name."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gate2static.data import DataSpec, Sample, TargetSpec
from gate2static.data.augmented import Augmented
from gate2static.data.decoding import read_image, read_label_image
from gate2static.data.files import (
    FileOptions,
    FileSamples,
    HoldOutOptions,
    existing_root,
    file_splits,
    read_lines,
    require_files,
)
from gate2static.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize
from gate2static.errors import DataError, RecipeError
from gate2static.recipe import parse

SPEC = DataSpec(image_shape=(3, 6, 8), targets={"labels": TargetSpec(kind="semantic", channels=5)})
READERS = {"image": read_image, "labels": read_label_image}


def files(root: Path, count: int, *, size: tuple[int, int] = (6, 8), label: int = 4) -> list[dict[str, Path]]:
    """Grey pictures whose label maps hold `label`."""
    found = []
    for index in range(count):
        sample = {"image": root / f"{index}.png", "labels": root / f"{index}_labels.png"}
        Image.new("RGB", size[::-1], (128, 128, 128)).save(sample["image"])
        Image.fromarray(np.full(size, label, dtype=np.uint8)).save(sample["labels"])
        found.append(sample)
    return found


def keep(sample: Sample, generator: torch.Generator) -> Sample:
    return sample


def test_samples_are_normalised_and_checked(tmp_path: Path) -> None:
    image, targets = FileSamples(files(tmp_path, 1), READERS, SPEC)[0]
    picture = image * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    assert torch.allclose(picture, torch.full((3, 6, 8), 128 / 255), atol=1e-6)
    assert targets["labels"].tolist() == [[4] * 8] * 6
    wrong = FileSamples(files(tmp_path, 1, label=5), READERS, SPEC)
    with pytest.raises(DataError, match=r"0_labels\.png: labels holds label 5; allowed: 0 to 4, and 255 to ignore"):
        wrong[0]


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    data = FileSamples(files(tmp_path, 2), READERS, SPEC)
    (tmp_path / "1.png").unlink()
    data[0]
    with pytest.raises(DataError, match=r"1\.png: no such file"):
        data[1]


def test_an_image_of_another_size_names_its_file_unless_it_is_brought_to_it(tmp_path: Path) -> None:
    small = files(tmp_path, 1, size=(5, 7))
    with pytest.raises(DataError, match=r"0\.png: found an image of 5×7 \(height × width\); allowed: 6×8"):
        FileSamples(small, READERS, SPEC)[0]
    prepare = partial(resize, kinds={"labels": "semantic"}, size=(6, 8))
    image, targets = FileSamples(small, READERS, SPEC, prepare=prepare)[0]
    assert image.shape == (3, 6, 8)
    assert targets["labels"].tolist() == [[4] * 8] * 6


def test_a_target_of_another_size_than_its_image_names_its_file(tmp_path: Path) -> None:
    data = FileSamples(files(tmp_path, 1), READERS, SPEC)
    Image.new("L", (8, 5)).save(tmp_path / "0_labels.png")
    with pytest.raises(DataError, match=r"0_labels\.png: labels has shape \(5, 8\); its image asks for \(6, 8\)"):
        data[0]


def test_held_out_images_are_the_first_and_are_not_augmented(tmp_path: Path) -> None:
    train, test = files(tmp_path, 5), files(tmp_path, 2)
    make = partial(FileSamples, readers=READERS, spec=SPEC)
    splits = file_splits(train, test, make, keep, HoldOutOptions(root="", val_images=2, seed=3))
    assert isinstance(splits.train, Augmented)
    assert splits.train.seed == 3
    assert isinstance(splits.train.base, FileSamples)
    assert isinstance(splits.val, FileSamples)
    assert (splits.val.files, splits.train.base.files) == (train[:2], train[2:])
    with pytest.raises(DataError, match=r"val_images: found 5; allowed: fewer than the 5 training images"):
        file_splits(train, test, make, keep, HoldOutOptions(root="", val_images=5))


def test_without_held_out_images_the_test_images_are_watched(tmp_path: Path) -> None:
    make = partial(FileSamples, readers=READERS, spec=SPEC)
    options = HoldOutOptions(root="", augment=False)
    splits = file_splits(files(tmp_path, 3), files(tmp_path, 2), make, keep, options)
    assert splits.val is splits.test
    assert isinstance(splits.train, FileSamples)


def test_the_first_missing_file_is_named_with_the_layout(tmp_path: Path) -> None:
    listed = [path for sample in files(tmp_path, 3) for path in sample.values()]
    require_files("Some", listed)
    listed[3].unlink()
    listed[5].unlink()
    with pytest.raises(DataError, match=r"/1_labels\.png is missing; the folder has the Some layout, half unpacked"):
        require_files("Some", listed)
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError, match=r"/0\.png is missing"):
        require_files("Some", listed)


def test_lists_are_read_without_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a\r\n  b \n\nc")
    assert read_lines("Some", tmp_path / "list.txt") == ["a", "b", "c"]
    (tmp_path / "list.txt").write_bytes(b"\n\n")
    with pytest.raises(DataError, match=r"list\.txt: empty"):
        read_lines("Some", tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list\.txt: cannot be read as text"):
        read_lines("Some", tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"gone\.txt is missing; the folder has the Some layout"):
        read_lines("Some", tmp_path / "gone.txt")


def test_a_root_that_is_missing_or_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.options: missing key root"):
        parse(FileOptions, {}, where="data.options")
    with pytest.raises(DataError, match=r"data\.options\.root: found .*nowhere, which is not a folder"):
        existing_root(FileOptions(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"found ~nobody-of-this-name/data, which is not a folder"):
        existing_root(FileOptions(root="~nobody-of-this-name/data"))
    assert existing_root(FileOptions(root=str(tmp_path))) == tmp_path


def test_the_home_folder_may_be_written_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert existing_root(FileOptions(root="~")) == tmp_path
