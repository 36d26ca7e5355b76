"""Files that are either the old one or the new one, whatever happens while writing."""

import os
import tempfile
from pathlib import Path

from gate2static.errors import TrainingError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes beside `path`, flushes to the disk, then renames; makes the folder when it is missing.

    Raises:
        TrainingError: The file cannot be written; what stood at `path` is untouched.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        _write(descriptor, content)
        os.replace(temporary, path)  # noqa: PTH105 -- mkstemp gives a string
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise TrainingError(
            f"{path} cannot be written: {error.strerror or error}; what stood there is untouched. "
            "Free some space or choose another folder, then go on with --resume"
        ) from error


def _write(descriptor: int, content: bytes | memoryview) -> None:
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(descriptor)
