"""Files that are written whole or not at all: a killed process or a full disk leaves the old file.

Folders may be a stranger's. So temporary files have names that nobody can predict, are created exclusively and are
never opened through a link; a link in the place of the file itself is replaced, not followed.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gate2static.errors import ExportError, Gate2StaticError

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed processes stay
    fcntl = None  # type: ignore[assignment]  # Windows has no such module

_CREATE_ONLY = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
LARGEST_FILE = 2**31
"""The most bytes of a file that is read whole, if nothing else is said: 2 GiB, which is also protobuf's limit."""
_READ_ONLY = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)


def write_atomically(
    path: Path,
    data: bytes | memoryview,
    *,
    error: type[Gate2StaticError] = ExportError,
    advice: str = "Free some space or choose another path.",
) -> None:
    """Writes `data` to a temporary file beside `path` and renames it to `path`; creates missing folders.

    Temporary files that killed processes left behind for the same `path` are removed.

    Args:
        path: The file to write.
        data: The file's whole content.
        error: The exception class for a file that cannot be written.
        advice: The last sentence of the error message.

    Raises:
        Gate2StaticError: The file cannot be written (of type `error`); an old file at `path` is untouched.
    """
    try:
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(path)
        with _temporary_file(path) as (temporary, descriptor):
            _write(descriptor, data)
            temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, ValueError) as failure:  # ValueError: a path with a null character
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"cannot write {path}: {reason}; nothing was changed there. {advice}") from failure


def check_writable(path: Path, *, error: type[Gate2StaticError] = ExportError) -> None:
    """Finds out whether a file could be written, before the work that it is the result of; leaves nothing behind.

    Args:
        path: The file, whose folder need not exist.
        error: The exception class for a file that cannot be written.

    Raises:
        Gate2StaticError: The file cannot be written (of type `error`).
    """
    try:
        _check_replaceable(path)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        with _temporary_file(folder / path.name):
            pass
    except (OSError, ValueError) as failure:  # ValueError: a path with a null character
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"cannot write {path}: {reason}. Choose another path.") from failure


def _check_replaceable(path: Path) -> None:
    """Refuses a device, a pipe or a link to one: a file would take its place, and of `/dev/null` for everybody.

    Raises:
        OSError: Something else than a file is there.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, and no file")


@contextmanager
def _temporary_file(path: Path) -> Iterator[tuple[Path, int]]:
    """Creates and locks a file beside `path`, yields its path and descriptor, and removes what is left of it."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, _CREATE_ONLY, 0o666)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:
            break
        # Another writer took it for an orphan between its creation and its lock.
        os.close(descriptor)
    try:
        yield temporary, descriptor
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _write(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    # Without this a rename can reach the disk before the content does.
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, where folders can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # a folder that may be written but not read
    try:
        os.fsync(descriptor)
    except OSError:
        return  # some file systems do not sync folders; the file itself is on the disk
    finally:
        os.close(descriptor)


def _remove_orphans(path: Path) -> None:
    """Removes temporary files for `path` whose writers are gone: a living writer holds a lock on its file."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{16}\.tmp")
    try:
        orphans = [entry.path for entry in os.scandir(path.parent) if pattern.fullmatch(entry.name)]
    except OSError:
        return  # a folder that may be written but not read
    for orphan in orphans:
        try:
            descriptor = os.open(orphan, _READ_ONLY)
        except OSError:
            continue  # a link, somebody else's, or gone by now
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(orphan).unlink(missing_ok=True)
        except OSError:
            continue  # its writer is at work
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Marks a temporary file as one that is being written, where the file system has locks."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Lets a block that reads and rewrites files of a folder run in one process at a time, where there are locks.

    The lock is on the folder itself, so it needs no file and no permission to write.
    """
    descriptor = None
    if fcntl is not None:
        with suppress(OSError):
            descriptor = os.open(folder, _READ_ONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def read_bytes(
    path: Path, *, what: str, error: type[Gate2StaticError] = ExportError, largest: int = LARGEST_FILE
) -> bytes:
    """Returns a file's content, if it is a regular file: pipes and devices may have no end.

    Args:
        path: The file to read.
        what: The kind of file, for the error message: "ONNX file".
        error: The exception class for a file that cannot be read.
        largest: The most bytes that the file may have.

    Raises:
        Gate2StaticError: The file cannot be read, is no regular file, or is larger (of type `error`).
    """
    try:
        with open_regular(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            # Files of /proc say that they are empty.
            content = b"" if size_bytes > largest else file.read(largest + 1) or b""
    except (OSError, ValueError) as failure:  # ValueError: a path with a null character
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"cannot read the {what} {path}: {reason}; check the path") from failure
    if max(size_bytes, len(content)) > largest:
        raise error(
            f"cannot read the {what} {path}: it has {max(size_bytes, len(content)):,} bytes, more than {largest:,}, "
            "the most that such a file may have; check the path"
        )
    return content


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading, and never waits for a pipe or a device.

    Raises:
        OSError: The file is missing, may not be read, or is a folder, a pipe, a socket or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_file(path: Path) -> bool:
    """Returns whether a path is a file, which one with a null character is not."""
    try:
        return path.is_file()
    except ValueError:
        return False


def is_up_to_date(path: Path, sources: Iterable[Path]) -> bool:
    """Returns whether a file exists and is not older than the files that it is made from."""
    return path.is_file() and all(path.stat().st_mtime >= source.stat().st_mtime for source in sources)


def sha256_of(data: bytes) -> str:
    """Returns the SHA-256 digest of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
