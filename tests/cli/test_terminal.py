"""What reaches a terminal: no control characters of names from files, no markup, and no error where it has ASCII only.

Names come from files, which may be a stranger's.
"""

import io
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import RenderableType
from typer.testing import CliRunner

from gate2static import terminal
from gate2static.bench import LatencyReport, TargetLatency, latency_table
from gate2static.bench.doctor import Finding, findings_table
from gate2static.bench.environment import describe_environment
from gate2static.bench.report import TimingProtocol
from gate2static.cli.commands import app
from gate2static.errors import RecipeError
from gate2static.export.formats import export_table
from gate2static.latency.grid import Grid
from gate2static.latency.model import OperatorCost
from gate2static.latency.prediction import Prediction
from gate2static.latency.table import LatencyTable
from gate2static.profiling import profile_table
from gate2static.progress import progress_bar
from gate2static.prune import BarrierCost
from gate2static.report import barrier_table, checks_table, rich_table
from gate2static.report.content import Check, Content, TableRow, TaskColumn
from gate2static.report.tables.targets_table import targets_table
from gate2static.tasks import Suggestion
from gate2static.train.loop.progress import TrainingProgress

HOSTILE = "a\x1b]0;owned\x07\x9b31m\u202e\u2066[red]b[/red]:smile:\nc\r\udcff"
"""A window's title, a colour, text that runs backwards, markup of rich, an emoji, lines, and half a character."""
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printed(content: RenderableType) -> str:
    printer = terminal.console(width=400)
    with printer.capture() as capture:
        printer.print(content)
    return capture.get()


def is_harmless(text: str) -> bool:
    """Whether a text that shows the hostile name shows all of it, and nothing of it works."""
    flat = " ".join(text.split())
    return not CONTROL.search(text) and "\\x1b]0;owned" in flat and "[red]b[/red]:smile:\\nc\\r\\udcff" in flat


def latency_report() -> LatencyReport:
    environment = describe_environment(threads=1).model_copy(update={"cpu": HOSTILE, "versions": {HOSTILE: HOSTILE}})
    protocol = TimingProtocol(batch_size=1, rounds=1, warmup_s=0, duration_s=1, min_runs=1)
    target = TargetLatency(name=HOSTILE, backend=HOSTILE, precision=HOSTILE, rounds_ms=((1.0, 9.0),))
    return LatencyReport(protocol=protocol, environment=environment, targets=(target,))


def checks() -> RenderableType:
    check = Check(comparison=HOSTILE, task=HOSTILE, max_rel=0.0, tolerance=1.0, passed=True, reason=HOSTILE)
    return checks_table([check])


TABLES = {
    "bench": lambda: latency_table(latency_report()),
    "report": lambda: rich_table(
        Content(
            title=HOSTILE,
            columns=(TaskColumn(task=HOSTILE, metric=HOSTILE, higher_is_better=True),),
            rows=(TableRow(name=HOSTILE, kind="gated", budget=HOSTILE),),
            latency_setting=HOSTILE,
        )
    ),
    "doctor": lambda: findings_table((Finding(item=HOSTILE, found=HOSTILE, state="missing", advice=HOSTILE),)),
    "prune": lambda: barrier_table([BarrierCost(operator=HOSTILE, nodes=(HOSTILE,), macs=1, behind=1)]),
    "suggest-targets": lambda: targets_table({HOSTILE: Suggestion(drop=0.1, target=0.5, overshares=True)}),
    "predict": lambda: Prediction(
        model=HOSTILE,
        estimated=True,
        batch_size=1,
        costs=(OperatorCost(operator=HOSTILE, shapes=HOSTILE, ms=1.0, macs=1, note=HOSTILE),),
    ).table(),
    "profile": lambda: profile_table(
        LatencyTable(
            name=HOSTILE,
            backend="torch",
            threads=1,
            overhead_ms=0,
            grids=(Grid(kind="add", axes=((1, 2),), ms=(1.0, 2.0)),),
        )
    ),
}


@pytest.mark.parametrize("command", TABLES)
def test_names_in_tables_cannot_control_the_terminal(command: str) -> None:
    """Task, metric, row, processor and version of a file reached the terminal as they are."""
    assert is_harmless(printed(TABLES[command]()))


def test_names_in_checks_cannot_control_the_terminal() -> None:
    assert is_harmless(printed(checks()))


def test_names_of_exported_files_cannot_control_the_terminal() -> None:
    report = SimpleNamespace(path=Path(HOSTILE.replace("/", "")), size_bytes=1)
    text = printed(export_table([report]))  # type: ignore[list-item]
    assert not CONTROL.search(text)
    assert "\\x1b]0;owned" in text
    assert "[red]b[red]:smile:" in text


def test_names_in_progress_bars_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(enabled=True, total_cost=1) as progress:
        progress.start_network(HOSTILE, steps=1, done=0, cost=1)
        progress.note(HOSTILE)
    with progress_bar(visible=True) as bar:
        bar.disable = False
        bar.add_task(HOSTILE)
        assert is_harmless(printed(bar.get_renderable()))
        bar.disable = True
    text = capsys.readouterr().err
    assert "\\x1b]0;owned" in text
    assert not CONTROL.search(text.replace("\r", ""))


def test_errors_and_warnings_cannot_control_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        warnings.warn_explicit(HOSTILE, UserWarning, terminal.__file__, 1)
        warnings.warn_explicit("of a library", UserWarning, "/lib/torch/nn.py", 1)
        raise RecipeError(HOSTILE)

    monkeypatch.setattr("gate2static.report.write_report", fails)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit) as end:
            app(["report", "run"])
    assert end.value.code == 2
    warning, error = capsys.readouterr().err.splitlines()
    for line in (warning, error):
        assert not CONTROL.search(line)
        assert "\\x1b]0;owned\\x07" in line
    assert warning.startswith("gate2static: warning: ")


@pytest.mark.parametrize(
    "words", [[HOSTILE], ["train", HOSTILE], ["train", "x", HOSTILE], ["bench", "x", f"--{HOSTILE}"]]
)
def test_the_words_of_a_command_line_cannot_control_the_terminal(words: list[str]) -> None:
    """`gate2static bench *` has the names of a stranger's files in its command line."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not CONTROL.search(result.stderr)


def test_long_messages_lose_their_middle(run) -> None:
    error = RecipeError("x" * 10_000 + "; do this")
    assert len(str(error)) < 1_000
    assert str(error).endswith("; do this")
    assert len(run("train", "x" * 20_000, code=2).stderr) < 1_000


def test_json_is_ascii_and_controls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say_json({HOSTILE: HOSTILE})
    text = capsys.readouterr().out
    assert text.isascii()
    assert not CONTROL.search(text)


ASCII_COMMANDS = [
    ["doctor"],
    ["report", "{run}"],
    ["verify", "{run}/shared/ckpt.pt", "{run}/shared/static"],
    ["bench", "{run}/shared/static", "--duration", "0.01", "--rounds", "1"],
    ["predict", "{run}/shared/static", "--latency", "a100"],
    ["prune", "{run}/gated-60/ckpt.pt", "--dry-run"],
    ["export", "{run}/shared/static", "--pt2", "-o", "{tmp}"],
    ["suggest-targets", "{run}"],
    ["--help"],
    ["train", "--help"],
]


@pytest.mark.slow
@pytest.mark.parametrize("words", ASCII_COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("columns", ["1", "80"])
def test_every_command_runs_on_a_terminal_that_shows_only_ascii(
    words: list[str], columns: str, demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`×`, `Δ` and the lines of tables ended `bench`, `report` and `doctor` in a traceback of 50 lines."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    result = CliRunner(charset="ascii").invoke(app, [word.format(run=demo_dir, tmp=tmp_path) for word in words])
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes.isascii()
    assert result.stdout_bytes.strip()


SHOWN = (
    "0.5 × λ 漢\U0001f600\n",
    "0.5 × lambda \\u6f22\\U0001f600\n",
    "0.5 x lambda \\u6f22\\U0001f600\n",
)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_characters_that_an_encoding_lacks_are_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.degrade_gracefully()
    terminal.say("0.5 × λ 漢\U0001f600")
    stream.seek(0)
    assert stream.read() in SHOWN


def test_without_stdout_nothing_is_said_and_nothing_fails(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    terminal.say("hello")
    terminal.say_json({})
    terminal.show("hello")
