"""Files that are either the old one or the new one, whatever happens while writing."""

import os
from pathlib import Path

from gate2static.errors import TrainingError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes beside `path`, flushes to the disk, then renames; makes the folder when it is missing.

    Raises:
        TrainingError: The file cannot be written; what stood at `path` is untouched.
    """
    # Always the same name, so that what a killed process left behind is overwritten by the next one.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written: {error.strerror or error}; what stood there is untouched. "
            "Free some space or choose another folder, then go on with --resume"
        ) from error


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
