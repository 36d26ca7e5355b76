"""Reading of IDX files, the format of MNIST and of the data sets that replace it, compressed or not."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gate2static.errors import DataError
from gate2static.files import open_regular

_BYTES = 8
"""The type code of bytes, in the third byte of a file."""
_GZIP = b"\x1f\x8b"
_MOST_BYTES = 2**28
"""The most bytes that a file may unpack to: five times those of 60,000 images of 28×28."""


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Reads an IDX file of bytes as a tensor of its shape: uint8.

    Args:
        path: The file; one that is compressed is recognised by its content.
        dimensions: The number of dimensions that the file must have.

    Raises:
        DataError: The file is missing, cut off, or no IDX file of bytes with so many dimensions.
    """
    content = _content(path)
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, _BYTES, dimensions]):
        raise DataError(
            f"{path}: starts with {content[:4].hex(' ') or 'nothing'}; allowed: 00 00 08 {dimensions:02x}, an IDX file "
            f"of bytes with {dimensions} dimensions; unpack the data set again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    values = np.frombuffer(content, dtype=np.uint8, offset=header)
    if values.size != int(np.prod(shape, dtype=object)):
        sizes = "×".join(str(side) for side in shape)
        raise DataError(f"{path}: announces {sizes} bytes and has {values.size:,}; unpack the data set again")
    return torch.from_numpy(values.reshape(shape).copy())


def _content(path: Path) -> bytes:
    """Returns a file's content, unpacked where it is compressed."""
    try:
        with open_regular(path) as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            content = gzip.GzipFile(fileobj=file).read(_MOST_BYTES + 1) if packed else file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}; unpack the data set again") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path}: holds more than {_MOST_BYTES:,} bytes; unpack the data set again")
    return content
