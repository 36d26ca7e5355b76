"""Members of tar files, which are read at their place in the file."""

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from gate2static.files import open_regular

LARGEST_MEMBER = 2**28
"""The most bytes of a member: 256 MiB."""
_MOST_OPEN = 64
_Reader = tuple[int, int, Path]
_open_files: dict[_Reader, BinaryIO] = {}
"""The files that were read last, the latest at the end: on shared storage, opening takes longer than reading."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of a tar file.

    Attributes:
        tar: The tar file.
        name: The member's name.
        offset: The position of its first byte in the tar file.
        size_bytes: Its size.
    """

    tar: Path
    name: str
    offset: int
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.tar}, {self.name}"

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Returns the member's bytes as a file.

        Raises:
            OSError: The tar file is missing, cannot be read, or ends before the member does.
        """
        file = _opened(self.tar)
        file.seek(self.offset)
        content = file.read(self.size_bytes)
        if len(content) < self.size_bytes:
            raise OSError(f"the tar file ends after {len(content)} of its {self.size_bytes} bytes")
        return io.BytesIO(content)


def _opened(tar: Path) -> BinaryIO:
    # A forked worker or another thread must not move this one's position in the file.
    key = (os.getpid(), threading.get_ident(), tar)
    file = _open_files.pop(key, None) or open_regular(tar)
    _open_files[key] = file
    if len(_open_files) > _MOST_OPEN:
        _open_files.pop(next(iter(_open_files))).close()
    return file
