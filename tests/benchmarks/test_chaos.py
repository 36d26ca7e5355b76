"""A small part of the chaos benchmark: `prune` and `export`, killed and out of space at random points."""

import random
from pathlib import Path

import pytest
import torch

from benchmarks.robustness.chaos import disturbed, half_files, run_in_fork, write_section
from gate2static.static import StaticModel, load_static

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["kill", "full", "limit"])
def test_an_export_that_is_disturbed_leaves_no_half_file_and_can_be_repeated(
    kind: str, static: StaticModel, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    static.save(folder / "static")
    (folder / "notes.txt").write_text("theirs")
    words = ["export", "static", "-o", ".", "--pt2"]
    torch.set_num_threads(1)
    status, said, operations = run_in_fork(folder, words, prepare=disturbed(0, "count"))
    assert (status, said) == (0, "")
    assert operations > 3
    generator = random.Random(0)
    for _ in range(4):
        (folder / "model.pt2").unlink(missing_ok=True)
        point = generator.randint(1, 2_000 if kind == "limit" else operations)
        status, said, _ = run_in_fork(folder, words, prepare=disturbed(point, kind))
        assert status in ((-9, 0) if kind == "kill" else (2, 0)), said
        assert "Traceback" not in said
        assert half_files(folder) == []
        assert (folder / "notes.txt").read_text() == "theirs"
        assert run_in_fork(folder, words)[:2] == (0, "")
        names = sorted(entry.name for entry in folder.iterdir())
        assert names == ["example.cpp", "example.py", "model.json", "model.onnx", "model.pt2", "notes.txt", "static"]
    assert load_static(folder / "static").manifest.digest == static.manifest.digest


def test_the_disk_counts_what_changes_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").touch()
    status, _, operations = run_in_fork(tmp_path / "work", ["report", "nowhere"], prepare=disturbed(0, "count"))
    assert (status, operations) == (2, 0)


def test_a_section_replaces_its_older_self(tmp_path: Path) -> None:
    page = tmp_path / "robustness.md"
    page.write_text("# Title\n\n## Killed, full, shared\n\nold\n\n## Another\n\nkept\n")
    write_section(page, "## Killed, full, shared\n\nnew\n")
    assert page.read_text() == "# Title\n\n## Killed, full, shared\n\nnew\n\n## Another\n\nkept\n"
    write_section(tmp_path / "new.md", "## Killed, full, shared\n\nnew\n")
    assert (tmp_path / "new.md").read_text().endswith("\n\n## Killed, full, shared\n\nnew\n")
