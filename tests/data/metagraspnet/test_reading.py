"""Scenes in HDF5 from strangers: links, other files, filters and sizes are looked at before content."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gate2static.data.metagraspnet.reading import read_categories
from gate2static.errors import DataError

h5py = pytest.importorskip("h5py")


def scene(path: Path, fill: Callable[[Any], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def put(value: Any, **options: Any) -> Callable[[Any], object]:
    return lambda file: file.create_dataset("objects/categories", data=value, **options)


@pytest.mark.parametrize("stored", [[1.0, 97.0], [[1], [97]], np.array([1, 97], np.uint8)])
def test_categories_come_in_any_type_of_number(tmp_path: Path, stored: Any) -> None:
    found = read_categories(scene(tmp_path / "0_scene.hdf5", put(stored)), largest=97)
    assert found.tolist() == [1, 97]
    assert found.dtype == np.int64


def test_packed_categories_are_read(tmp_path: Path) -> None:
    path = scene(tmp_path / "0_scene.hdf5", put(np.arange(1, 9), compression="gzip", shuffle=True, fletcher32=True))
    assert read_categories(path, largest=97).tolist() == list(range(1, 9))


def external_storage(file: Any) -> None:
    file.create_dataset("objects/categories", shape=(4,), dtype="u1", external=[("/etc/passwd", 0, 4)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(4,))
    file.create_virtual_dataset("objects/categories", layout)


def external_link(file: Any) -> None:
    file["objects/categories"] = h5py.ExternalLink("/tmp/other.hdf5", "/objects/categories")


def soft_link(file: Any) -> None:
    file["objects/categories"] = h5py.SoftLink("/elsewhere")


def group(file: Any) -> None:
    file.create_group("objects/categories")


@pytest.mark.parametrize(
    ("fill", "match"),
    [
        (external_storage, "objects/categories is kept in another file"),
        (virtual, "objects/categories is kept in another file"),
        (external_link, "it holds no objects/categories"),
        (soft_link, "it holds no objects/categories"),
        (group, "objects/categories is no array"),
        (lambda file: None, "it holds no objects"),
        (put(np.ones(256)), r"objects/categories is \(256,\) of float64; allowed: up to 255 numbers"),
        (put(b"text"), "allowed: up to 255 numbers"),
        (put(np.ones(3), compression="lzf"), r"packed by the filters \[32000\]; allowed are \[1, 2, 3\]"),
        (put(np.ones(3), maxshape=(None,), chunks=(2**22,)), r"has chunks of \(4194304,\)"),
        (put([0.0, 98.0]), "objects/categories holds 0, 98; allowed: whole numbers from 1 to 97"),
        (put([np.nan]), "objects/categories holds nan"),
        (put([1.5]), "objects/categories holds 1.5"),
    ],
)
def test_what_is_no_list_of_categories_is_refused(tmp_path: Path, fill: Callable[[Any], object], match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        read_categories(scene(tmp_path / "0_scene.hdf5", fill), largest=97)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_scene_that_is_cut_off_ends_in_one_line(tmp_path: Path, share: float) -> None:
    path = scene(tmp_path / "0_scene.hdf5", put(np.arange(1, 9)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"0_scene\.hdf5: cannot be read as a scene of MetaGraspNet") as error:
        read_categories(path, largest=97)
    assert "\n" not in str(error.value)
