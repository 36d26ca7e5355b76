"""A folder of files that appears whole or not at all, and takes the place of an older one at once.

It is written under another name beside its place. Where the system can exchange two names, there is no moment without
the old or the new folder; elsewhere two renames follow each other. A folder under construction is locked, so that what
killed processes left can be told from what another process is writing.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: folders of killed processes stay
    fcntl = None  # type: ignore[assignment]

_HERE = -100  # AT_FDCWD: paths are relative to the working folder
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder, and removes the one that was there.

    Folders that killed processes left beside it are removed, if they hold nothing but files of these names.

    Args:
        folder: The folder; an older one holds nothing that must stay.
        files: Name -> content.

    Raises:
        OSError: The folder cannot be written; the old one is in its place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(folder, files)
    with _staging(folder) as staging:
        for name, content in files.items():
            (staging / name).write_bytes(content)
            _sync(staging / name)
        _sync(staging)
        _swap(staging, folder)
        _sync(folder.parent)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Makes and locks a folder beside `folder`, yields it, and removes whatever has its name in the end."""
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.new")
    staging.mkdir()
    lock = _lock(staging)
    try:
        yield staging
    finally:
        _remove(staging)
        if lock is not None:
            os.close(lock)


def _swap(staging: Path, folder: Path) -> None:
    """Gives each of two folders the other's name; a missing one stays missing.

    Raises:
        OSError: The folder cannot be replaced; the old one is in its place.
    """
    if not os.path.lexists(folder):
        staging.rename(folder)
    elif not _exchange(staging, folder):
        previous = folder.with_name(f"{staging.name}.old")
        folder.rename(previous)
        try:
            staging.rename(folder)
        except OSError:
            previous.rename(folder)
            raise
        _remove(previous)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two paths at once.

    Returns:
        Whether this system and file system can.

    Raises:
        OSError: They can, and it failed.
    """
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*paths, _EXCHANGE)
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(_HERE, paths[0], _HERE, paths[1], _EXCHANGE)
    else:
        return False
    if failed and ctypes.get_errno() not in _UNSUPPORTED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
    return not failed


def _remove(path: Path) -> None:
    """Removes a folder, or a link to one but not what it links to."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _remove_orphans(folder: Path, files: Mapping[str, bytes]) -> None:
    """Removes what killed writers left of `folder`: unlocked, named as `_staging` does, and with our files only."""
    if fcntl is None:
        return
    pattern = re.compile(re.escape(f".{folder.name}.") + r"[0-9a-f]{16}\.new(\.old)?")
    with suppress(OSError):  # a folder that may be written but not read
        for entry in os.scandir(folder.parent):
            if not pattern.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            lock = _lock(Path(entry.path))
            if lock is None:
                continue
            if all(left.name in files for left in Path(entry.path).iterdir()):
                _remove(Path(entry.path))
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Locks a folder until the returned descriptor is closed; None where that is impossible or somebody else did."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk, where that can be asked for."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return  # a folder that may be written but not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not sync folders
            raise
    finally:
        os.close(descriptor)
