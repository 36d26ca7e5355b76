"""The lock on a run's folder: one training at a time, whoever dies, and no file of anybody else touched."""

import errno
import fcntl
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from gate2static.errors import TrainingError
from gate2static.train import run_lock
from gate2static.train.run_lock import FILE, locked
from tests.forking import exit_code_of_fork


def test_a_second_process_is_refused_and_told_who_trains(tmp_path: Path) -> None:
    """Two trainings with --resume wrote one checkpoint, which differed from an undisturbed run's in 8 of 8 tries."""

    def second() -> None:
        run_lock._held.set(frozenset())  # a process that was started on its own
        refusal = rf"in use by '.+', process {parent} on .+, since 20\d\d-.+; wait for it or stop it"
        with pytest.raises(TrainingError, match=refusal), locked(tmp_path):
            pass

    parent = os.getpid()
    with locked(tmp_path):
        assert exit_code_of_fork(second) == 0
        assert json.loads((tmp_path / FILE).read_text())["gate2static"]["process"] == parent
    assert list(tmp_path.iterdir()) == []


def test_who_waits_is_told_once_for_whom_and_goes_on_when_the_folder_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder also removes the folder, if it created it and wrote nothing into it."""
    monkeypatch.setattr(run_lock, "_POLL_S", 0.02)
    folder = tmp_path / "run"
    reading, writing = os.pipe()
    holder = os.fork()
    if holder == 0:
        with locked(folder):
            os.write(writing, b"x")
            time.sleep(0.3)
        os._exit(0)
    os.read(reading, 1)
    told: list[str] = []
    with locked(folder, waiting=told.append):
        assert os.waitpid(holder, 0)[1] == 0
        assert json.loads((folder / FILE).read_text())["gate2static"]["process"] == os.getpid()
    assert len(told) == 1
    assert f"process {holder}" in told[0]


def test_a_killed_training_leaves_no_lock(tmp_path: Path) -> None:
    def killed() -> None:
        with locked(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code_of_fork(killed) == -signal.SIGKILL
    assert (tmp_path / FILE).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["gate2static"]["process"] == os.getpid()


def test_workers_that_outlive_a_killed_training_do_not_hold_its_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def killed() -> None:
        with locked(tmp_path):
            if os.fork() == 0:
                os.close(writing)
                os.read(reading, 1)  # until the test ends
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code_of_fork(killed) == -signal.SIGKILL
    with locked(tmp_path):
        pass
    os.close(writing)
    os.close(reading)


def test_another_thread_is_refused_and_the_same_call_is_not(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        with pytest.raises(TrainingError, match="in use by"), locked(tmp_path):
            pass
        refused.append(True)

    with locked(tmp_path):
        with locked(tmp_path):  # the demo locks its folder, and trains in it
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert (tmp_path / FILE).exists()
    assert refused == [True]


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "ckpt.pt").touch()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize("kind", ["file", "link", "hard link", "folder", "pipe"])
def test_what_has_the_lock_files_name_and_is_somebody_elses_is_left_alone(kind: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    run = tmp_path / "run"
    run.mkdir()
    make = {
        "file": lambda path: path.write_text("theirs"),
        "link": lambda path: path.symlink_to(victim),
        "hard link": lambda path: path.hardlink_to(victim),
        "folder": lambda path: path.mkdir(),
        "pipe": os.mkfifo,
    }[kind]
    make(run / FILE)
    with pytest.raises(TrainingError, match=r"(is not a lock file of gate2static|cannot write .*lock)"), locked(run):
        pass
    assert victim.read_text() == "theirs"
    assert (run / FILE).is_symlink() or (run / FILE).exists()


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    said = "a file system without locks; make sure that no other process"
    with pytest.warns(UserWarning, match=said), locked(tmp_path):
        pass


def test_a_path_with_a_null_character_is_one_line() -> None:
    with pytest.raises(TrainingError, match="cannot write .*null"), locked(Path("a\0b")):
        pass
