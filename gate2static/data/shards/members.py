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


class _OpenFiles(threading.local):
    """The files that a thread read last, the latest one last: on shared storage, opening takes longer than reading."""

    def __init__(self) -> None:
        self.by_reader: dict[tuple[int, Path], BinaryIO] = {}


_open_files = _OpenFiles()


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
    files = _open_files.by_reader
    # A forked worker must not move the position in the file of the process that it is a copy of.
    key = (os.getpid(), tar)
    file = files.pop(key, None) or open_regular(tar)
    files[key] = file
    if len(files) > _MOST_OPEN:
        files.pop(next(iter(files))).close()
    return file
