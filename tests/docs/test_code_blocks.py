"""Every Python block of README.md and docs/ runs, unless a comment that readers do not see says why not.

CONTRIBUTING.md explains the comments: `<!-- hidden`, `<!-- fragment -->`, `<!-- tested by … -->`.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from gate2static.cli.commands import app

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>fragment|tested by (?P<test>\S+)) -->\n+)?"
    r"(?:^<!-- hidden\n(?P<hidden>.*?)^-->\n+)?"
    r"^(?P<indent> *)```python\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code: what runs before it, and whether and by which other test it is run."""

    code: str
    hidden: str
    mark: str | None
    test: str | None


def blocks_of(text: str) -> list[Block]:
    return [Block(m["code"], m["hidden"] or "", m["mark"], m["test"]) for m in BLOCK.finditer(text)]


PAGES = {
    str(path): blocks_of(path.read_text(encoding="utf-8"))
    for path in [Path("README.md"), Path("CONTRIBUTING.md"), *sorted(Path("docs").rglob("*.md"))]
}
RUN = [page for page, blocks in PAGES.items() if any(block.mark is None for block in blocks)]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(page).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict[str, Any] = {"__name__": "__main__"}
    for block in PAGES[page]:
        if block.mark is None:
            # Line numbers of tracebacks are those of the page.
            first = text[: text.index(block.code)].count("\n")
            exec(compile(block.hidden, f"{page} (hidden)", "exec"), scope)
            exec(compile("\n" * first + block.code, page, "exec"), scope)


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if any(block.test for block in blocks)])
def test_the_test_that_runs_a_block_reads_its_page(page: str) -> None:
    for block in PAGES[page]:
        if block.test is not None:
            assert page in Path(block.test).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_no_block_escapes(page: str) -> None:
    """A block with another indentation or name for Python would be neither run nor marked."""
    text = Path(page).read_text(encoding="utf-8")
    openings = re.findall(r"^ *(?:```|~~~) *\{?\.?(?:python|py|python3|pycon)\b", text, re.MULTILINE)
    assert len(openings) == len(PAGES[page])


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_that_pages_give_them(page: str) -> None:
    group: Any = typer.main.get_command(app)
    for name, options in commands_of(Path(page).read_text(encoding="utf-8")):
        assert name in group.commands, f"{page}: gate2static {name}"
        known = {option for parameter in group.commands[name].params for option in parameter.opts} | {"--help"}
        assert set(options) <= known, f"{page}: gate2static {name}"


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Returns the command lines in a page's blocks for a shell: the command, and its options."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if language in ("", "sh", "bash")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("gate2static ")]
    # Global options stand in front of the command.
    return [(line[1], [word for word in line[2:] if word.startswith("-")]) for line in words if line[1][0] != "-"]


def test_command_lines_are_found() -> None:
    block = "gate2static prune a.pt \\\n    -o static --budget macs=0.5   # --no\ngate2static --version\npip x\n"
    page = f"```yaml\na: 1\n```\ngate2static is text\n```sh\n{block}```\n"
    assert commands_of(page) == [("prune", ["-o", "--budget"])]


def test_readme_code_fits_the_column_of_a_repository_page() -> None:
    code = re.findall(r"^```\w+\n(.*?)^```", Path("README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert max(len(line) for block in code for line in block.splitlines()) <= 88


def test_a_block_that_fails_is_seen() -> None:
    (good, fragment, tested) = blocks_of(
        "<!-- hidden\nx = 1\n-->\n```python\ny = x\n```\n\n<!-- fragment -->\n```python\n...\n```\n"
        "<!-- tested by tests/a.py -->\n```python\nz\n```\n"
    )
    assert (good.hidden, good.code, good.mark) == ("x = 1\n", "y = x\n", None)
    assert fragment.mark == "fragment"
    assert tested.test == "tests/a.py"
