"""Who a worker is, and whether it is alive: its process, or the signs of life that it leaves in the storage."""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from gate2static.search.study import BEAT

BEAT_S = 20.0
"""Seconds between two signs of life of a worker."""
SILENCE_S = 90.0
"""Seconds without a sign of life after which a worker counts as dead."""
_at_work: set[str] = set()
"""The names of this process's workers."""


@contextmanager
def signs_of_life(trial: Trial) -> Iterator[None]:
    """Lets other workers know that this one is alive while a block runs."""
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(BEAT_S):
            number += 1
            with suppress(Exception):  # a storage that is gone for a moment is no reason to stop training
                trial.set_user_attr(BEAT, number)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def identity() -> Iterator[dict[str, Any]]:
    """Yields who this worker is, for workers on other machines too; it counts as dead behind the block."""
    name = secrets.token_hex(8)
    _at_work.add(name)
    try:
        yield {"machine": _machine(), "process": os.getpid(), "started": _started(os.getpid()), "name": name}
    finally:
        _at_work.discard(name)


def is_alive(worker: Any) -> bool | None:
    """Returns whether a worker of this machine is alive; None for workers elsewhere, which cannot be asked."""
    if not isinstance(worker, dict) or worker.get("machine") != _machine() or worker.get("started") is None:
        return None
    if worker["started"] != _started(worker.get("process")):
        return False
    # A notebook lives on after a search that ended with an error.
    return worker.get("process") != os.getpid() or worker.get("name") in _at_work


def _machine() -> str:
    """Returns a name that two processes share only where they see each other's process numbers."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _started(process: Any) -> str | None:
    """Returns when a process of this machine was started; None where there is none.

    A process that was killed and that nobody has asked about yet, a zombie, is none either.
    """
    try:
        # Behind the program's name, which may hold anything.
        fields = Path(f"/proc/{int(process)}/stat").read_text().rpartition(")")[2].split()
    except (OSError, TypeError, ValueError):
        return None
    return None if fields[0] in "ZX" else fields[19]
