"""Reading of MetaGraspNet's archives and scenes: sizes are looked at before content, and nothing of a file is run."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gate2static.data.decoding import guarded
from gate2static.errors import DataError
from gate2static.files import LARGEST_FILE, open_regular
from gate2static.runtimes.optional import require

Array = npt.NDArray[Any]

MOST_OBJECTS = 255
LONGEST_SIDE = 4096
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_FILTERS = (1, 2, 3)
"""HDF5's own deflation, shuffling and checksum; others would be looked for among the machine's plugins."""
_LARGEST_CHUNK = 2**24


def names_in(path: Path) -> tuple[str, ...]:
    """Returns the names of the arrays in a `.npz` file.

    Raises:
        DataError: The file is missing, cut off or another one.
    """

    def load() -> tuple[str, ...]:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())

    return guarded(path, load, "an archive of arrays (.npz)")


def read_array(path: Path, name: str, *, dims: int) -> Array:
    """Reads one array of numbers from a `.npz` file.

    Args:
        path: The file.
        name: The array's name in it.
        dims: The number of dimensions: 2 for (H, W), or 3 for (objects, H, W).

    Raises:
        DataError: The file is missing, cut off or another one, or the array is missing, too large, or no numbers.
    """
    most = (MOST_OBJECTS, LONGEST_SIDE, LONGEST_SIDE)[-dims:]

    def load() -> Array:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            if f"{name}.npy" not in archive.namelist():
                raise ValueError(f"it holds no {name}")
            with archive.open(f"{name}.npy") as member:
                shape, _, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
            if len(shape) != dims or any(side > limit for side, limit in zip(shape, most, strict=True)):
                raise ValueError(f"{name} has shape {shape}; allowed are {dims} dimensions of at most {most}")
            # Small archives can claim arrays that fill the memory.
            if dtype.kind not in "buif" or math.prod(shape) * dtype.itemsize > LARGEST_FILE:
                raise ValueError(f"{name} is {shape} of {dtype}; allowed are numbers, {LARGEST_FILE} bytes at most")
            with archive.open(f"{name}.npy") as member:
                array: Array = np.lib.format.read_array(member, allow_pickle=False)
            return array

    return guarded(path, load, "an archive of arrays (.npz)")


def read_categories(path: Path, *, largest: int) -> Array:
    """Reads `objects/categories` of a scene: int64 (objects,).

    Args:
        path: The HDF5 file.
        largest: The largest category; the smallest is 1.

    Raises:
        DataError: The file is missing, cut off or another one, or the categories are missing or no categories.
        MissingDependencyError: h5py is not installed.
    """
    h5py = require("h5py")

    def load() -> Array:
        with open_regular(path) as file, h5py.File(file, "r") as scene:
            # Links can name other files of this machine.
            for link in ("objects", "objects/categories"):
                if not isinstance(scene.get(link, getlink=True), h5py.HardLink):
                    raise ValueError(f"it holds no {link}")
            dataset = scene["objects/categories"]
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError("objects/categories is no array")
            _check_storage(dataset)
            values: Array = np.asarray(dataset[()])
            return values

    stored = guarded(path, load, "a scene of MetaGraspNet (HDF5)")
    categories = stored.reshape(-1)
    # Also true for NaN.
    if not np.all((categories >= 1) & (categories <= largest) & (categories == np.round(categories))):
        raise DataError(
            f"{path}: objects/categories holds {_listed(categories)}; allowed: whole numbers from 1 to {largest}"
        )
    return categories.astype(np.int64)


def _check_storage(dataset: Any) -> None:
    """Raises a ValueError unless reading a data set touches this file alone, and takes little memory."""
    if dataset.external or dataset.is_virtual:
        raise ValueError("objects/categories is kept in another file")
    shape = dataset.shape or ()
    if dataset.dtype.kind not in "uif" or len(shape) not in (1, 2) or math.prod(shape) > MOST_OBJECTS:
        raise ValueError(f"objects/categories is {shape} of {dataset.dtype}; allowed: up to {MOST_OBJECTS} numbers")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if any(number not in _FILTERS for number in filters):
        raise ValueError(f"objects/categories is packed by the filters {filters}; allowed are {list(_FILTERS)}")
    if dataset.chunks is not None and math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_CHUNK:
        raise ValueError(f"objects/categories has chunks of {dataset.chunks}")


def _listed(values: Array) -> str:
    return ", ".join(f"{value:g}" for value in np.unique(values)[:5])
