"""Whole files or none: what a killed process or a full disk leaves behind is always the old file."""

import hashlib
import os
from pathlib import Path

from gate2static.errors import ExportError, Gate2StaticError


def write_atomically(
    path: Path,
    data: bytes | memoryview,
    *,
    error: type[Gate2StaticError] = ExportError,
    advice: str = "Free some space or choose another path.",
) -> None:
    """Write `data` beside `path`, then rename over it; missing folders are made.

    What a killed process left behind is overwritten by the next one that writes `path`.

    Args:
        path: the file.
        data: all of it.
        error: raised when the file cannot be written.
        advice: the last sentence of its message.

    Raises:
        Gate2StaticError: of type `error`; an old file at `path` is untouched.
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
        os.fsync(file.fileno())


def read_bytes(path: Path, *, what: str, error: type[Gate2StaticError] = ExportError) -> bytes:
    """The file's bytes; `what` names the kind of file in the error message.

    Raises:
        Gate2StaticError: of type `error`, when the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as failure:
        raise error(f"cannot read the {what} {path}: {failure.strerror or failure}; check the path") from failure


def sha256_of(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()
