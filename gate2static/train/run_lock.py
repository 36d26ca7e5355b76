"""The lock on a run's folder, so that two trainings never write the same checkpoints."""

import errno
import json
import os
import shlex
import socket
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from gate2static.errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows: folders are not locked
    fcntl = None  # type: ignore[assignment]

FILE = ".gate2static.lock"
_HEADER = b'{"gate2static": '
"""How every lock file begins; a file that does not is somebody else's."""
_LONGEST = 4096
_POLL_S = 0.5
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""The folders that the current call has locked: the demo locks its folder, and trains in it."""


@contextmanager
def locked(run_dir: Path, *, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Locks a run's folder while a block runs; creates the folder.

    The lock belongs to the process: the kernel gives it up when the process ends, however it ends. Who only reads a run
    needs no lock.

    Args:
        run_dir: The folder.
        waiting: Is called once with the holder in words where another process has the lock, which is then waited for.
            None raises instead.

    Raises:
        TrainingError: Another process or thread trains in the folder, or the folder cannot be written.
    """
    existed = run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        folder = run_dir.resolve()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"cannot write {run_dir}: {reason}; choose another folder") from error
    if fcntl is None or folder in _held.get():
        yield
        return
    descriptor = _acquire(folder / FILE, waiting)
    held = _held.set(_held.get() | {folder})
    try:
        yield
    finally:
        _held.reset(held)
        _in_children.discard(descriptor)
        with suppress(OSError):
            (folder / FILE).unlink()
        os.close(descriptor)
        if not existed:
            with suppress(OSError):
                folder.rmdir()  # only where nothing was written into it


def _acquire(path: Path, waiting: Callable[[str], None] | None) -> int:
    """Returns the descriptor of a lock file that this process has locked."""
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                holder = _holder(descriptor)
                os.close(descriptor)
                if waiting is not None:
                    waiting(holder)
                    waiting = _in_silence
                    time.sleep(_POLL_S)
                    # The holder removes a folder that it created and wrote nothing into.
                    path.parent.mkdir(parents=True, exist_ok=True)
                    continue
                raise TrainingError(
                    f"{path.parent} is in use by {holder}; wait for it or stop it, or choose another folder"
                ) from error
            warnings.warn(
                f"{path.parent} is on a file system without locks; make sure that no other process trains there",
                stacklevel=2,
            )
        # Another process may have unlocked and removed the file between its opening and its locking.
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _description(), 0)
    _in_children.add(descriptor)
    return descriptor


def _in_silence(holder: str) -> None:
    """Says nothing: who waits was told already."""


def _open(path: Path) -> int:
    """Opens a lock file, which must be a plain file of ours: what it holds is replaced."""
    try:
        descriptor = os.open(path, _FLAGS, 0o666)
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    status = os.fstat(descriptor)
    content = os.pread(descriptor, _LONGEST, 0) if stat.S_ISREG(status.st_mode) else b"?"
    if status.st_nlink > 1 or (content and not content.startswith(_HEADER)):
        os.close(descriptor)
        raise TrainingError(f"{path} is not a lock file of gate2static; move it elsewhere, or choose another folder")
    return descriptor


def _description() -> bytes:
    """Returns what a refused process tells its user about this one."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else ["python"]
    entry = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "command": shlex.join(words)[:400],
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    return _HEADER + json.dumps(entry).encode() + b"}\n"


def _holder(descriptor: int) -> str:
    """Returns the holder of a lock in words."""
    try:
        entry = json.loads(os.pread(descriptor, _LONGEST, 0))["gate2static"]
        return f"{entry['command']!r}, process {entry['process']} on {entry['host']}, since {entry['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"  # which has not said yet who it is


_in_children: set[int] = set()
"""Descriptors that forked processes close: workers that outlive a killed training must not hold its lock."""


def _close_in_child() -> None:
    for descriptor in _in_children:
        with suppress(OSError):
            os.close(descriptor)
    _in_children.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
