"""Files that are written whole or not at all: a killed process or a full disk leaves the old file."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from gate2static.errors import ExportError, Gate2StaticError


def write_atomically(
    path: Path,
    data: bytes | memoryview,
    *,
    error: type[Gate2StaticError] = ExportError,
    advice: str = "Free some space or choose another path.",
) -> None:
    """Writes `data` to a temporary file beside `path` and renames it to `path`; creates missing folders.

    A temporary file that a killed process left behind is overwritten by the next write to `path`.

    Args:
        path: The file to write.
        data: The file's whole content.
        error: The exception class for a file that cannot be written.
        advice: The last sentence of the error message.

    Raises:
        Gate2StaticError: The file cannot be written (of type `error`); an old file at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(temporary, data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as failure:
        raise error(
            f"cannot write {path}: {failure.strerror or failure}; nothing was changed there. {advice}"
        ) from failure


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        # Without this a rename can reach the disk before the content does.
        os.fsync(file.fileno())


def read_bytes(path: Path, *, what: str, error: type[Gate2StaticError] = ExportError) -> bytes:
    """Returns a file's content.

    Args:
        path: The file to read.
        what: The kind of file, for the error message: "ONNX file".
        error: The exception class for a file that cannot be read.

    Raises:
        Gate2StaticError: The file cannot be read (of type `error`).
    """
    try:
        return path.read_bytes()
    except OSError as failure:
        raise error(f"cannot read the {what} {path}: {failure.strerror or failure}; check the path") from failure


def is_up_to_date(path: Path, sources: Iterable[Path]) -> bool:
    """Returns whether a file exists and is not older than the files that it is made from."""
    return path.is_file() and all(path.stat().st_mtime >= source.stat().st_mtime for source in sources)


def sha256_of(data: bytes) -> str:
    """Returns the SHA-256 digest of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
