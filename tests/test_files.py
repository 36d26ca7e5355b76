"""Writing a file: whole or not at all, never through a link, and nothing of a killed writer left."""

import os
import signal
import stat
from pathlib import Path

import pytest

from gate2static.errors import ArtefactError, BenchError, ExportError
from gate2static.files import check_writable, read_bytes, write_atomically
from tests.forking import exit_code_of_fork


def test_folders_are_made_and_permissions_are_the_users(tmp_path: Path) -> None:
    path = tmp_path / "run" / "model.onnx"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"cannot write .*model\.onnx: No space left on device; nothing was changed"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


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


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    (tmp_path / "report.html").symlink_to(victim)
    write_atomically(tmp_path / "report.html", b"ours")
    assert victim.read_text() == "theirs"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "report.html").read_bytes() == b"ours"


def test_links_with_the_names_of_temporary_files_are_neither_followed_nor_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    planted = [tmp_path / f".file{suffix}" for suffix in (".tmp", f".{'0' * 16}.tmp")]
    for link in planted:
        link.symlink_to(victim)
    write_atomically(tmp_path / "file", b"ours")
    assert victim.read_text() == "theirs"
    assert all(link.is_symlink() for link in planted)


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "file", b"ours")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]


def test_a_null_character_in_the_path_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write .*null"):
        write_atomically(tmp_path / "a\0b", b"ours")


def test_what_a_killed_writer_left_is_removed_by_the_next_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    theirs = tmp_path / ".file.backup.tmp"
    theirs.write_text("theirs")

    def killed() -> None:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(path, b"half")

    assert exit_code_of_fork(killed) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".file.*.tmp"))) == 2
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".file.backup.tmp", "file"]


def test_a_file_that_is_being_written_is_no_orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gate2static import files

    path = tmp_path / "file"
    write = files._write

    def write_while_another_writes(descriptor: int, data: bytes) -> None:
        monkeypatch.setattr(files, "_write", write)
        write_atomically(path, b"second")
        write(descriptor, data)

    monkeypatch.setattr(files, "_write", write_while_another_writes)
    write_atomically(path, b"first")
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_device_or_a_pipe_is_not_replaced(is_link: bool, tmp_path: Path) -> None:
    """`bench --json /dev/null`, run by root, used to make a file of `/dev/null`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = tmp_path / "link" if is_link else pipe
    if is_link:
        path.symlink_to(pipe)
    with pytest.raises(ExportError, match=r"cannot write .*: it is a device or a pipe, and no file; "):
        write_atomically(path, b"new")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert path.is_symlink() == is_link


def test_a_file_that_cannot_be_written_is_found_out_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in [
        (tmp_path / "file" / "table.json", "Not a directory"),
        (tmp_path, "Is a directory"),
        (Path("/dev/null"), "it is a device or a pipe"),
        (Path("a\0b"), "null"),
    ]:
        with pytest.raises(ArtefactError, match=f"cannot write .*{reason}.*Choose another path"):
            check_writable(path, error=ArtefactError)


def test_looking_whether_a_file_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "table.json", error=ArtefactError)
    assert list(tmp_path.iterdir()) == []
