"""The places of all members of a tar file: from the file beside it, or else from the tar file's headers."""

import json
import tarfile
from pathlib import Path
from typing import BinaryIO, cast

from pydantic import BaseModel

from gate2static import files
from gate2static.data.decoding import guarded
from gate2static.data.shards.members import LARGEST_MEMBER
from gate2static.errors import DataError
from gate2static.strict_json import read_model

Places = dict[str, tuple[int, int]]
"""The position of each member's first byte and its size in bytes, by name, in the order of the tar file."""
_LARGEST_HEADER = 2**20
_BLOCK = 512


class _Index(BaseModel):
    """The content of an index file.

    Attributes:
        size_bytes: The size of the tar file.
        members: The members' places.
    """

    size_bytes: int
    members: Places


def index_file(tar: Path) -> Path:
    """Returns the path of a tar file's index, which is beside it."""
    return tar.with_name(f"{tar.name}.json")


def index_shards(root: Path | str) -> int:
    """Writes an index beside every tar file in a folder and the folders below, so that loading reads no headers.

    Args:
        root: The folder.

    Returns:
        The number of tar files.

    Raises:
        DataError: There is no tar file, one cannot be read, or an index cannot be written.
    """
    tars = sorted(Path(root).rglob("*.tar"))
    if not tars:
        raise DataError(f"{root}: no tar file is there or below; give the folder of the shards")
    for tar in tars:
        write_index(tar)
    return len(tars)


def write_index(tar: Path) -> None:
    """Writes the index of one tar file beside it.

    Raises:
        DataError: The tar file cannot be read, or the index cannot be written.
    """
    content = {"size_bytes": tar.stat().st_size, "members": _scanned(tar)}
    files.write_atomically(index_file(tar), json.dumps(content).encode(), error=DataError)


def read_index(tar: Path) -> Places:
    """Returns the places of a tar file's members.

    Raises:
        DataError: The tar file or its index cannot be read, or they do not belong together.
    """
    if not index_file(tar).is_file():
        return _scanned(tar)
    advice = "write it again with gate2static.data.index_shards"
    index = read_model(index_file(tar), _Index, what="index of a tar file", advice=advice, error=DataError)
    if index.size_bytes != tar.stat().st_size:
        raise DataError(
            f"{tar}: found {tar.stat().st_size} bytes, and {index.size_bytes} in {index_file(tar).name}; copy the file "
            f"again, or, if it was changed, {advice}"
        )
    for name, place in index.members.items():
        _check_place(tar, name, place, index.size_bytes)
    return index.members


def _scanned(tar: Path) -> Places:
    """Reads the headers of a tar file, and none of its members."""

    def scan() -> Places:
        places: Places = {}
        with files.open_regular(tar) as file:
            headers = cast(BinaryIO, _Headers(file))
            with tarfile.open(fileobj=headers, mode="r:") as archive:
                for member in archive:
                    if member.sparse is not None:
                        raise ValueError(f"{member.name} is sparse")
                    if member.name in places:
                        raise ValueError(f"{member.name} is there twice")
                    if member.isreg():
                        places[member.name] = (member.offset_data, member.size)
                # `tarfile` takes a broken header for the end.
                file.seek(archive.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise ValueError(f"broken or cut off behind {next(reversed(places), 'its start')}")
        return places

    places = guarded(tar, scan, "a tar file without compression")
    for name, place in places.items():
        _check_place(tar, name, place, tar.stat().st_size)
    return places


def _check_place(tar: Path, name: str, place: tuple[int, int], size_bytes: int) -> None:
    offset, length = place
    if not 0 <= length <= LARGEST_MEMBER:
        raise DataError(f"{tar}, {name}: found {length:,} bytes; allowed: up to {LARGEST_MEMBER:,}")
    if not 0 <= offset <= size_bytes - length:
        raise DataError(f"{tar}, {name}: lies outside the tar file; write its index again, or copy the file again")


class _Headers:
    """A tar file of which no more is read at a time than headers need: they may claim to be of any size."""

    def __init__(self, file: BinaryIO) -> None:
        self.tell = file.tell
        self.seek = file.seek
        self._file = file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        return self._file.read(size)
