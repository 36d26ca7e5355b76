"""docs/own_checkpoints.md, as it stands: its files are written and its commands run."""

import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from gate2static.static import load_static

PAGE = Path("docs/own_checkpoints.md").absolute()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_what_the_page_shows_runs(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("nets", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for code in blocks("python"):
        (name,) = re.findall(r"\A# (\w+\.py)\n", code)
        Path(name).write_text(code)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        program, *words = shlex.split(line)
        if program == "python":
            with monkeypatch.context() as patch:
                patch.syspath_prepend(str(tmp_path))
                runpy.run_path(words[0], run_name="__main__")
        else:
            assert program == "gate2static"
            run(*words)
    assert Path("exported/model.onnx").is_file()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        names = runpy.run_path("more.py")
    assert names["more"].tasks == ("seg", "depth", "edges")
    assert names["fewer"].tasks == ("depth",)
    assert load_static("depth").tasks == ("depth",)
