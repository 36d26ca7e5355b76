"""Saving that fails halfway: the old folder stays whole, and nothing half-written stands beside it."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gate2static.errors import ArtefactError
from gate2static.static import StaticModel, load_static, whole_folder
from tests.forking import exit_code_of_fork


def _fail_at(name: str) -> Callable[..., int]:
    """A `write_bytes` or `write_text` that runs out of space halfway through one file."""
    write = Path.write_bytes

    def full(path: Path, content: bytes | str, *args: Any) -> int:
        data = content if isinstance(content, bytes) else content.encode()
        if path.name == name:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    return full


@pytest.mark.parametrize("name", ["graph.json", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("existed", [False, True])
def test_a_full_disk_leaves_the_old_folder(
    name: str, existed: bool, pruned: StaticModel, static: StaticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "static"
    if existed:
        static.save(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _fail_at(name))
        patch.setattr(Path, "write_text", _fail_at(name))
        with pytest.raises(ArtefactError, match=r"cannot write the static model .*static: .*No space left on device"):
            pruned.save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["static"] * existed
    if existed:
        assert load_static(folder).manifest.digest == static.manifest.digest


@pytest.mark.parametrize("nth", [1, 2])
def test_a_swap_that_fails_puts_the_old_folder_back(
    nth: int, pruned: StaticModel, static: StaticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls, rename = tmp_path / "static", [], Path.rename
    static.save(folder)

    def failing(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(whole_folder, "_exchange", lambda one, other: False)
        patch.setattr(Path, "rename", failing)
        with pytest.raises(ArtefactError, match="cannot write the static model"):
            pruned.save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["static"]
    assert load_static(folder).manifest.digest == static.manifest.digest


def test_saving_again_replaces_the_folder(pruned: StaticModel, static: StaticModel, tmp_path: Path) -> None:
    static.save(tmp_path / "static")
    pruned.save(tmp_path / "static")
    assert load_static(tmp_path / "static").manifest.digest == pruned.manifest.digest
    assert [path.name for path in tmp_path.iterdir()] == ["static"]


def test_a_folder_that_is_no_static_model_is_not_replaced(pruned: StaticModel, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ArtefactError, match="photos exists and is not a static model; choose another folder or remove"):
        pruned.save(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


@pytest.mark.parametrize("manifest", ['{"name": "a web application"}', "not json", "[]"])
def test_a_folder_with_somebody_elses_manifest_is_not_replaced(
    manifest: str, pruned: StaticModel, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "index.html").write_text("theirs")
    with pytest.raises(ArtefactError, match="exists and is not a static model: .* choose another folder or remove it"):
        pruned.save(tmp_path)
    assert (tmp_path / "index.html").read_text() == "theirs"
    assert (tmp_path / "manifest.json").read_text() == manifest


def test_a_static_models_folder_with_other_files_is_not_replaced(pruned: StaticModel, tmp_path: Path) -> None:
    folder = tmp_path / "static"
    pruned.save(folder)
    (folder / "notes.txt").write_text("theirs")
    with pytest.raises(ArtefactError, match=r"also holds notes\.txt, which would be removed; move that elsewhere"):
        pruned.save(folder)
    assert (folder / "notes.txt").read_text() == "theirs"


def test_a_file_in_the_way_is_not_replaced(pruned: StaticModel, tmp_path: Path) -> None:
    (tmp_path / "static").write_text("notes")
    with pytest.raises(ArtefactError, match="static exists and is not a static model"):
        pruned.save(tmp_path / "static")
    with pytest.raises(ArtefactError, match="cannot write the static model"):
        pruned.save(tmp_path / "static" / "below")
    assert (tmp_path / "static").read_text() == "notes"


def _killed_at(name: str) -> Callable[..., int]:
    """A `write_bytes` or `write_text` whose process is killed halfway through one file."""
    write = Path.write_bytes

    def killed(path: Path, content: bytes | str) -> int:
        data = content if isinstance(content, bytes) else content.encode()
        if path.name == name:
            write(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, data)

    return killed


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_a_process_killed_while_writing_leaves_the_old_folder(
    name: str, pruned: StaticModel, static: StaticModel, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "static"
    static.save(folder)

    def save() -> None:
        Path.write_bytes = Path.write_text = _killed_at(name)
        pruned.save(folder)

    assert exit_code_of_fork(save) == -signal.SIGKILL
    assert load_static(folder).manifest.digest == static.manifest.digest
    # A killed process cannot tidy up; what it left is hidden, and the next one removes it.
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == ["static"]
    pruned.save(folder)
    assert load_static(folder).manifest.digest == pruned.manifest.digest
    assert [path.name for path in folder.parent.iterdir()] == ["static"]


@pytest.mark.parametrize("call", ["mkdir", "_sync", "_lock", "_exchange", "_remove"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_process_killed_anywhere_leaves_the_old_or_the_new_folder(
    call: str, nth: int, pruned: StaticModel, static: StaticModel, tmp_path: Path
) -> None:
    """A kill between two renames used to leave neither folder in place, and temporary folders stayed for ever."""
    folder = tmp_path / "run" / "static"
    static.save(folder)
    module: Any = Path if call == "mkdir" else whole_folder
    original, calls = getattr(module, call), []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(call)
        result = original(*args, **kwargs)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def save() -> None:
        setattr(module, call, killed)
        pruned.save(folder)

    assert exit_code_of_fork(save) in (-signal.SIGKILL, 0)
    assert load_static(folder).manifest.digest in (static.manifest.digest, pruned.manifest.digest)
    pruned.save(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["static"]


def test_what_another_process_is_writing_stays(pruned: StaticModel, tmp_path: Path) -> None:
    with whole_folder._staging(tmp_path / "static") as living:
        pruned.save(tmp_path / "static")
        assert living.is_dir()


def test_folders_that_are_not_ours_stay(pruned: StaticModel, tmp_path: Path) -> None:
    theirs = tmp_path / ".static.0123456789abcdef.new"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("theirs")
    (tmp_path / ".static.0123456789abcdea.new").symlink_to(theirs)
    pruned.save(tmp_path / "static")
    assert (theirs / "notes.txt").read_text() == "theirs"
    assert (tmp_path / ".static.0123456789abcdea.new").is_symlink()


def test_a_link_to_a_folder_is_replaced_and_what_it_links_to_stays(
    pruned: StaticModel, static: StaticModel, tmp_path: Path
) -> None:
    static.save(tmp_path / "elsewhere")
    (tmp_path / "static").symlink_to(tmp_path / "elsewhere")
    pruned.save(tmp_path / "static")
    assert load_static(tmp_path / "static").manifest.digest == pruned.manifest.digest
    assert load_static(tmp_path / "elsewhere").manifest.digest == static.manifest.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "static"]


def test_weights_that_share_memory_are_saved_apart(pruned: StaticModel, tmp_path: Path) -> None:
    parameters = list(pruned.network.parameters())
    assert len({p.data_ptr() for p in parameters}) == len(parameters)
    pruned.save(tmp_path / "static")
    loaded = load_static(tmp_path / "static")
    assert all(torch.equal(a, b) for a, b in zip(loaded.network.parameters(), parameters, strict=True))
