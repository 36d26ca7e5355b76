"""`gate2static new`: the project runs as it is, by its own training loop and by its recipe."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gate2static import delivering, plugins
from gate2static.bench import LatencyReport
from gate2static.errors import Gate2StaticError
from gate2static.project import write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> Iterator[Path]:
    """A new project, its folder the current one, and nothing of it imported or allowed."""
    monkeypatch.chdir(tmp_path)
    assert json.loads(run("new", "my_discs", "--json", "-").stdout) == {"folder": "my_discs"}
    monkeypatch.chdir(tmp_path / "my_discs")
    monkeypatch.setattr(plugins, "_allowed", set())
    forget()
    yield tmp_path / "my_discs"
    forget()


def forget() -> None:
    """Lets Python forget the project, as a new process would."""
    plugins._allowed.clear()
    sys.path[:] = [entry for entry in sys.path if "my_discs" not in entry]
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_discs"]:
        del sys.modules[name]


def commands() -> list[str]:
    """The lines of the project's README, in their order."""
    blocks = re.findall(r"```sh\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_every_line_of_its_readme_runs_up_to_a_benched_onnx_file(
    project: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(project)
    quick_benchmark = partial(delivering.benchmark, rounds=1, warmup_s=0.0)
    monkeypatch.setattr(delivering, "benchmark", lambda models, **_: quick_benchmark(models, duration_s=0.02))
    lines = commands()
    assert len(lines) + 2 <= 15, "with `new` and `cd`"
    for line in lines:
        forget()
        program, *words = shlex.split(line)
        if program == "python":
            with monkeypatch.context() as patch:
                patch.syspath_prepend(str(project))
                runpy.run_path(words[0], run_name="__main__")
            continue
        assert program == "gate2static"
        if words[0] == "deliver":
            assert_that_a_run_imports_nothing(run)
        quick = {"bench": ["--rounds", "1", "--duration", "0.05", "--json", "latency.json"]}
        run(*words, *quick.get(words[0], []))
    report = LatencyReport.from_json(Path("latency.json"))
    assert [target.median_ms > 0 for target in report.targets] == [True]
    assert (project / "runs/my_discs/report.html").is_file()


def assert_that_a_run_imports_nothing(run: Any) -> None:
    checkpoint = "runs/my_discs/shared/ckpt.pt"
    run_dir = "runs/my_discs"
    for words in (("prune", checkpoint, "-o", "new"), ("deliver", run_dir), ("suggest-targets", run_dir)):
        refused = run(*words, code=2)
        assert "my_discs.discs:load is code that this file names, and nothing is imported" in refused.stderr
        assert "add --plugin my_discs, if you trust it" in refused.stderr
    assert not [name for name in sys.modules if name.startswith("my_discs")]
    assert not Path("new").exists()


def small(project: Path) -> None:
    """Takes as little training as runs at all."""
    for name, old, new in (
        ("train.py", "EPOCHS = 4", "EPOCHS = 3"),
        ("train.py", "Discs(256, 0), batch_size=32", "Discs(32, 0), batch_size=16"),
        ("recipe.yaml", "images: 256", "images: 32"),
        ("recipe.yaml", "epochs: 2, batch_size: 32", "epochs: 1, batch_size: 16"),
    ):
        text = (project / name).read_text()
        assert old in text, name
        (project / name).write_text(text.replace(old, new))


def test_the_project_is_clean_code(project: Path) -> None:
    options = ["--isolated", "--no-cache", "--line-length", "120", "--select", "E,F,W"]
    ruff = [sys.executable, "-m", "ruff", "check", *options, "."]
    finished = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    files = [path for path in project.rglob("*.*") if path.is_file()]
    assert "my_project" not in "".join(path.read_text() for path in files)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Project", "allowed are a letter and then letters"),
        ("../up", "allowed are a letter and then letters"),
        ("class", "allowed are a letter"),
        ("json", "there is a package json already"),
        ("torch", "there is a package torch already"),
        ("taken", "taken exists; choose another name"),
        ("", "allowed are a letter"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(Gate2StaticError, match=message):
        write_project(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert not list((tmp_path / "taken").iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Gate2StaticError, match="cannot write .*nowhere"):
        write_project("fresh_one", tmp_path / "nowhere")
