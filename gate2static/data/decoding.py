"""Decoding of data files. No code from a file is run, and errors name the file."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gate2static.errors import DataError


class Source(Protocol):
    """What can be read: a file's path, or a member of an archive. Its text names it in error messages."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Opens it for reading."""


Reader = Callable[[Any], Tensor]
"""A function that reads a `Source`; readers of one data set may ask for a path."""
T = TypeVar("T")

_PICTURES = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
"""The formats of pictures that are read: for others PIL runs programs, such as Ghostscript for EPS."""

SHORTEST_NORMAL = 0.1
NORMAL_LENGTHS = (0.8, 1.25)
MOST_ODD_NORMALS = 0.2
"""The largest share of normals far from unit length; maps that were resized hold shorter vectors along edges."""


def read_image(path: Source) -> Tensor:
    """Reads a picture file as RGB: float32 (3, H, W) in [0, 1].

    Raises:
        DataError: The file is missing, cut off or not a picture.
    """
    array = np.array(_picture(path).convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).float().div(255)


def read_label_image(path: Source) -> Tensor:
    """Reads the stored numbers of a label picture, grey or with a palette: int64 (H, W).

    Raises:
        DataError: The file is missing, cut off, not a picture, in colours, or has labels that are not whole numbers.
    """
    picture = _picture(path)
    if len(picture.getbands()) != 1:
        raise DataError(
            f"{path}: found a picture of mode {picture.mode}; allowed: one number per pixel (grey or palette); "
            "a label map that was saved in colours has lost its labels, so unpack the data set again"
        )
    return whole_labels(path, torch.from_numpy(np.array(picture)))


def read_npy(path: Source) -> Tensor:
    """Reads a `.npy` file of numbers as a tensor of its shape; float16 and double become float32.

    Raises:
        DataError: The file is missing, cut off, or holds objects instead of numbers.
    """

    def load() -> Any:
        with path.open("rb") as file:
            return _plain_array(file)

    return _numbers(path, guarded(path, load, "an array of numbers (.npy)"))


def read_mat(path: Path, key: str) -> Tensor:
    """Reads one variable of a MATLAB file up to version 7 as a tensor of its shape; double becomes float32.

    Raises:
        DataError: The file is missing or cut off, or the variable is missing or does not hold numbers.
    """
    variables = read_mat_file(path)
    if key not in variables:
        names = ", ".join(name for name in variables if not name.startswith("__")) or "none"
        raise DataError(f"{path}: found the variables {names}; {key} is needed")
    return _numbers(path, variables[key])


def read_mat_file(path: Path, **options: Any) -> dict[str, Any]:
    """Reads all variables of a MATLAB file up to version 7.

    Args:
        path: The file.
        options: Further arguments of `scipy.io.loadmat`.

    Raises:
        DataError: The file is missing or cut off.
    """
    from scipy.io import loadmat  # takes a while to import, and few data sets need it

    def load() -> dict[str, Any]:
        with path.open("rb") as file:
            variables: dict[str, Any] = loadmat(file, **options)
        return variables

    return guarded(path, load, "a MATLAB file up to version 7")


def read_npy_maps(path: Source) -> Tensor:
    """Reads a `.npy` file of (H, W, C) or (H, W) numbers as float32 (C, H, W).

    Raises:
        DataError: The file cannot be read as for `read_npy`, or has another number of dimensions.
    """
    return _maps(path, read_npy(path))


def read_mat_maps(path: Path, key: str) -> Tensor:
    """Reads one variable of a MATLAB file, of (H, W, C) or (H, W) numbers, as float32 (C, H, W).

    Raises:
        DataError: The variable cannot be read as for `read_mat`, or has another number of dimensions.
    """
    return _maps(path, read_mat(path, key))


def read_npy_depth(path: Source) -> Tensor:
    """Reads depth (1, H, W) from a `.npy` file; values that are not finite become 0.

    Raises:
        DataError: The file cannot be read as for `read_npy_maps`.
    """
    return valid_depth(read_npy_maps(path))


def read_npy_normals(path: Source) -> Tensor:
    """Reads unit normals (3, H, W) from a `.npy` file.

    Raises:
        DataError: The file cannot be read as for `read_npy_maps`, or `unit_normals` refuses its vectors.
    """
    return unit_normals(path, read_npy_maps(path))


def read_image_normals(path: Source) -> Tensor:
    """Reads unit normals (3, H, W) from a picture of (n + 1) / 2.

    Raises:
        DataError: The file cannot be read as for `read_image`, or `unit_normals` refuses its vectors.
    """
    return unit_normals(path, read_image(path) * 2 - 1)


def whole_labels(path: Source, values: Tensor) -> Tensor:
    """Converts labels, which may be stored as floating-point numbers, to int64.

    Args:
        path: The labels' file, for the error message.
        values: The stored labels.

    Raises:
        DataError: A label is not a whole number.
    """
    if not values.is_floating_point():
        return values.long()
    wrong = values[(values != values.round()) | (values.abs() >= 2**63)]
    if len(wrong):
        labels = ", ".join(dict.fromkeys(f"{value:g}" for value in wrong.tolist()[:5]))
        raise DataError(f"{path}: found the labels {labels}; allowed: whole numbers; unpack the data set again")
    return values.long()


def valid_depth(depth: Tensor) -> Tensor:
    """Replaces depths that are not finite by 0, which marks unknown depth."""
    return depth.nan_to_num(nan=0, posinf=0, neginf=0)


def unit_normals(path: Source, vectors: Tensor) -> Tensor:
    """Scales normals (3, H, W) to length 1, and sets unknown ones to zero.

    Files hold rounded, compressed or interpolated vectors. A vector shorter than 0.1 comes from a zero vector, and a
    few vectors of other lengths come from edges. Many such vectors mean that the file holds no normals, or another
    encoding.

    Args:
        path: The normals' file, for the error message.
        vectors: The stored vectors.

    Raises:
        DataError: The vectors do not have three numbers each, or too many are far from unit length.
    """
    if len(vectors) != 3:
        raise DataError(f"{path}: found normals of {len(vectors)} numbers per pixel; allowed: 3")
    vectors = vectors.nan_to_num(nan=0, posinf=0, neginf=0)
    lengths = vectors.norm(dim=0)
    known = lengths >= SHORTEST_NORMAL
    longer = lengths > NORMAL_LENGTHS[1]
    odd = known & (longer | (lengths < NORMAL_LENGTHS[0]))
    # Odd lengths among the known normals; unknown ones are zero and say nothing.
    share = int(odd.sum()) / max(1, int(known.sum()))
    if share > MOST_ODD_NORMALS:
        raise DataError(
            f"{path}: found {share:.0%} of its normals far from unit length, with a median length of "
            f"{float(lengths[odd].median()):.3g}; allowed: unit vectors, and zero where unknown; in pictures 0 to "
            "255 stands for -1 to 1: encode them in that way"
        )
    return torch.where(known & ~longer, torch.nn.functional.normalize(vectors, dim=0), 0)


def _maps(path: Source, values: Tensor) -> Tensor:
    if values.dim() not in (2, 3) or not values.numel():
        raise DataError(f"{path}: found an array of shape {tuple(values.shape)}; allowed: (H, W) or (H, W, C)")
    return (values[None] if values.dim() == 2 else values.permute(2, 0, 1)).float()


def _picture(path: Source) -> Image.Image:
    def load() -> Image.Image:
        with warnings.catch_warnings():
            # A small file can claim a picture that fills the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file, formats=_PICTURES) as picture:
                picture.load()
        return picture

    return guarded(path, load, "a picture")


def guarded(path: Source, load: Callable[[], T], what: str) -> T:
    """Returns what a decoder makes of a file.

    Args:
        path: The file, for the error message.
        load: Calls the decoder.
        what: The expected content in words.

    Raises:
        DataError: The decoder raised anything, as decoders do on a broken file.
    """
    try:
        return load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; unpack the data set again") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not {what}; unpack the data set again") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 -- decoders raise any exception on a broken file
        raise DataError(f"{path}: cannot be read as {what}: {' '.join(str(error).split())}") from None


def _plain_array(file: BinaryIO) -> Any:
    """Reads a `.npy` file; `np.load` would reserve whatever memory a small file claims to need."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"format {version} is none of 1.0 and 2.0")
    shape, is_fortran, dtype = readers[version](file)
    # Objects, which would be pickles, are refused here.
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")


def _numbers(path: Source, array: Any) -> Tensor:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise DataError(f"{path}: found {getattr(array, 'dtype', type(array).__name__)}; allowed: an array of numbers")
    # Other byte orders and unsigned types that torch lacks are common in such files.
    plain = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return torch.from_numpy(np.ascontiguousarray(plain))
