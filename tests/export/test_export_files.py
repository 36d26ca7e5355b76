"""Writing a file whole or not at all, also where the process is killed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gate2static.errors import BenchError, ExportError
from gate2static.files import read_bytes, write_atomically
from tests.forking import exit_code_of_fork


def test_folders_are_made_and_permissions_are_the_users(tmp_path: Path) -> None:
    path = tmp_path / "run" / "model.onnx"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_contents: Callable[[], list[str]]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"cannot write .*model\.onnx: No space left on device; nothing was changed"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert folder_contents() == ["model.onnx"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def killed() -> None:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(path, b"new")

    assert exit_code_of_fork(killed) == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_missing_file_is_named_with_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot read the engine .*nowhere: No such file or directory"):
        read_bytes(tmp_path / "nowhere", what="engine", error=BenchError)


def test_who_has_the_old_file_open_keeps_reading_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
