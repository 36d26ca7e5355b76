"""Where a search is stored: a journal or a data base, which may be away for a while."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from gate2static.errors import SearchError
from gate2static.messages import brief

PAUSES_S: tuple[float, ...] = (1, 2, 4, 8, 15, 30, 30, 30)
"""Seconds between two tries to reach a storage that is gone: two minutes in all."""
GONE = (StorageInternalError, SQLAlchemyError, OSError)
"""What storages raise while a server, a network or a disk is away."""
_Result = TypeVar("_Result")
_OPENINGS = 3
"""How often a data base is opened: two workers that create its tables at once disturb each other."""


class _Lock(JournalFileSymlinkLock):
    """The lock on a journal, which removes half a line: Optuna refuses a journal for good once it goes on behind it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        """Locks the journal; half a line at its end then belongs to a worker that was killed."""
        acquired = super().acquire()
        try:
            with self._path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                end = size
                while end and not _ends_a_line(file, end):
                    end -= 1
                if end < size:
                    file.truncate(end)
        except BaseException:
            self.release()
            raise
        return acquired


def _ends_a_line(file: Any, end: int) -> bool:
    file.seek(end - 1)
    return bool(file.read(1) == b"\n")


def patiently(
    action: Callable[[], _Result], storage: str, *, say: Callable[[str], None], back: Callable[[], None]
) -> _Result:
    """Returns what an action on the storage returns; a storage that is gone is waited for.

    Args:
        action: Reads and writes the storage, and may be repeated from its beginning wherever it was interrupted.
        storage: The storage in words.
        say: Is called once where the storage is gone, and once where it is back.
        back: Is called before the action is tried again.

    Raises:
        SearchError: The storage stays away.
    """
    pauses = iter(PAUSES_S)
    is_gone = False
    while True:
        try:
            result = action()
            break
        except GONE as error:
            pause_s = next(pauses, None)
            if pause_s is None:
                raise unusable(storage, error) from error
            if not is_gone:
                say(f"the search's storage {storage} is gone: {_reason(error)}; waiting for it")
                is_gone = True
        time.sleep(pause_s)
        back()
    if is_gone:
        say(f"the search's storage {storage} is back")
    return result


def unusable(storage: str, error: Exception) -> SearchError:
    """Returns the error that a storage cannot be used."""
    return SearchError(
        f"the search's storage {storage} cannot be used: {_reason(error)}; what is trained is kept: start the same "
        "command again once it is there"
    )


def _reason(error: Exception) -> str:
    return brief(getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error.__cause__ or error)


def shown(storage: str) -> str:
    """Returns a storage for messages, without the password in it."""
    if "://" not in storage:
        return storage
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return storage.partition("://")[0] + "://…"


def opened(storage: str) -> BaseStorage:
    """Opens a data base by its address, or a journal by its path."""
    if "://" not in storage:
        # The lock is a link to the journal, and a link to a relative path would lead elsewhere.
        path = Path(storage).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return JournalStorage(JournalFileBackend(str(path), _Lock(path)))
    for _ in range(_OPENINGS - 1):
        with suppress(SQLAlchemyError):
            return _data_base(storage)
    return _data_base(storage)


def _data_base(url: str) -> RDBStorage:
    # Between two trials lie hours, after which a connection may be closed.
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
