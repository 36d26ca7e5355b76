"""Odd command lines: each ends with one short line and the exit status of bad input, whatever is odd about it."""

import logging
import os
import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate2static.cli.commands import app
from gate2static.errors import ArtefactError
from gate2static.static import StaticModel

RECIPE = Path("recipes/digits_tiny.yaml").resolve()


@pytest.fixture
def place(tmp_path: Path, static: StaticModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a static network and things that are no files of ours."""
    static.save(tmp_path / "static")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary.yaml").write_bytes(b"a\0b")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WHAT = ["", "a\0b", ".", "empty", "text", "loop", "pipe", "/dev/zero", "/proc/self/environ", "a" * 5_000, "\udcff"]
LINES = [
    *(["train", path] for path in WHAT),
    *(["prune", path, "-o", "new"] for path in WHAT),
    *(["export", path] for path in WHAT),
    *(["bench", path] for path in WHAT),
    *(["report", path] for path in WHAT),
    *(["predict", path, "--latency", "a100"] for path in WHAT),
    *(["predict", "static", "--latency", path] for path in WHAT),
    *(["verify", path, "static"] for path in WHAT),
    *(["export", "static", "--int8", "--calibration", path] for path in WHAT),
    *(["bench", "static", "--batch-size", size] for size in ("0", "-1", "1e9", "99999999999", "9" * 30, "nan", "")),
    *(["bench", "static", "--rounds", number] for number in ("0", "-1", "", "1.5")),
    *(["bench", "static", "--duration", seconds] for seconds in ("-1", "nan", "inf", "x")),
    *(["bench", "static", "--threads", threads] for threads in ("0", "-1", "99999999999", "9" * 30)),
    *(["profile", "static", "--threads", threads] for threads in ("99999999999", "9" * 30)),
    ["predict", "static", "--latency", "a100", "--batch-size", "9" * 30],
    ["train", "binary.yaml"],
    ["train", str(RECIPE), "--set", "gating.group_size=1000000000000000000", "--set", "data.name=x"],
    ["train", str(RECIPE), "--set", ""],
    ["train", str(RECIPE), "--run-dir", "loop"],
    ["train", str(RECIPE), "--run-dir", "text"],
    ["prune", "text", "-o", "loop"],
]


@pytest.mark.parametrize("words", LINES, ids=lambda words: ascii(" ".join(words))[1:60])
def test_an_odd_command_line_is_one_short_line(words: list[str], place: Path) -> None:
    """A null character in a path, 10¹¹ samples or a loop of links were tracebacks; /dev/zero took all memory."""
    before = sorted(entry.name for entry in place.iterdir())
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = result.stderr.splitlines()
    assert line.startswith("gate2static: ")
    assert len(line) < 1_000
    assert sorted(entry.name for entry in place.iterdir()) == before


def test_what_libraries_say_does_not_stand_before_our_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`WARNING:root:Axis 1 is out-of-range` stood there."""

    def noisy(*_: object) -> None:
        logging.warning("Axis 1 is out-of-range")
        logging.getLogger("torch").error("a traceback")
        warnings.warn_explicit("an overflow", RuntimeWarning, "/lib/numpy/core.py", 1)
        raise MemoryError

    monkeypatch.setattr("gate2static.report.write_report", noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit) as end:
            app(["report", "run"])
    assert end.value.code == 2
    said = capfd.readouterr().err
    assert said.splitlines() == ["gate2static: not enough memory: Python could not allocate any; lower the batch size"]
    assert logging.root.manager.disable == logging.NOTSET


def test_an_interruption_that_comes_out_as_another_error_is_one(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the import of a library came out as an ImportError, with its traceback."""

    def importing(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("half of torch") from error

    monkeypatch.setattr("gate2static.report.write_report", importing)
    assert "interrupted; continue with: gate2static report" in run("report", "x", code=130).stderr


@pytest.mark.slow
@pytest.mark.parametrize(("row", "passed", "code"), [("shared", "true", 2), ("gated-60", "false", 1)])
def test_the_verdict_is_shown_where_it_cannot_be_recorded(
    run, row: str, passed: str, code: int, demo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verify` on a read-only folder ended without a verdict."""

    def refused(*_: object) -> None:
        raise ArtefactError("cannot write manifest.json: Read-only file system")

    monkeypatch.setattr("gate2static.report.record", refused)
    words = ["verify", demo_dir / row / "ckpt.pt", demo_dir / "shared" / "static", "--record", "--json", "-"]
    result = run(*words, code=code)
    assert f'"passed": {passed}' in result.stdout
    assert ("cannot write manifest.json" if code == 2 else "does not compute what the gated one does") in result.stderr


def test_json_is_written_although_the_terminal_fails(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table was printed first."""

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gate2static.terminal.show", full)
    run("doctor", "--json", tmp_path / "doctor.json", code=2)
    assert (tmp_path / "doctor.json").read_text().startswith("[")


def test_the_package_is_a_command(tmp_path: Path) -> None:
    import subprocess

    words = [sys.executable, "-m", "gate2static", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.startswith("gate2static ")


def test_nobody_reading_the_output_is_no_error() -> None:
    import subprocess

    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "gate2static", "--help"]
    process = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")
