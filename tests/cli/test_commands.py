"""The command line: its commands and options, and its errors, each one line with exit status 2."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer.main

from gate2static.cli.commands import app
from gate2static.demo import RECIPE
from gate2static.recipe import bundled_recipe

# docs and build pipelines rely on these names: renaming one breaks somebody's scripts.
COMMANDS = {
    "demo": {"--run-dir", "--set", "--json"},
    "new": {"NAME", "--json"},
    "train": {"RECIPE", "--set", "--resume", "--run-dir", "--baselines", "--budget-ms", "--device", "--json"},
    "sweep": {"RECIPE", "--set", "--resume", "--run-dir", "--baselines", "--seeds", "--deliver", "--json"},
    "search": {"RECIPE", "--set", "--run-dir", "--storage", "--json"},
    "front": {"RUN_DIRS", "--pick", "--html", "--json"},
    "prune": {
        *("CHECKPOINT", "-o", "--output", "--align", "--target", "--dynamic", "--budget", "--dtype", "--explain"),
        "--dry-run",
        "--tasks",
        "--threads",
        "--json",
        "--model",
    },
    "verify": {"CHECKPOINT", "STATIC_DIR", "--onnx", "--inputs", "--record", "--json", "--model"},
    "export": {
        *("STATIC_DIR", "-o", "--output", "--onnx", "--pt2", "--trt", "--trt-rtx", "--compute-capability"),
        *("--fp16", "--int8", "--calibration", "--timing-cache", "--opset", "--batch", "--tasks", "--json"),
        *("--preprocess", "--argmax", "--max-drop", "--recipe", "--set", "--split", "--images"),
    },
    "evaluate": {
        *("NETWORKS", "--recipe", "--set", "--split", "--images", "--max-drop", "--threads", "--json"),
        "--model",
    },
    "bench": {
        *("TARGETS", "--backend", "--against", "--batch-size", "--rounds", "--duration", "--threads", "--json"),
    },
    "profile": {
        *("NETWORK", "-o", "--output", "--backend", "--threads", "--emit", "--precision", "--import", "--json"),
        "--model",
    },
    "predict": {"STATIC_DIR", "--latency", "--precision", "--batch-size", "--json"},
    "report": {"RUN_DIRS", "-o", "--output", "--row", "--json"},
    "deliver": {"RUN_DIR", "--trt-rtx", "--threads", "--json"},
    "recipes": {"--copy", "--explain", "--schema", "--json"},
    "doctor": {"--json"},
    "suggest-targets": {"RUN_DIR", "--json"},
}  # fmt: skip


# A process started in the background by a shell ignores Ctrl-C, and its children inherit that.
STARTED = """
import signal
import torch
from gate2static.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
main()
"""


TINY = Path("recipes/digits_tiny.yaml").absolute()


def one_line(result):
    """The only line on stderr."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("gate2static: ")
    return line


def test_commands_and_options_are_the_public_ones():
    group = typer.main.get_command(app)
    found = {
        name: {
            option
            for parameter in command.params
            for option in (parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()])
        }
        for name, command in group.commands.items()
    }
    # Every command has this one.
    assert all("--plugin" in options for options in found.values())
    assert {name: options - {"--plugin"} for name, options in found.items()} == COMMANDS
    of_all = {"--debug", "--version", "--install-completion", "--show-completion"}
    assert {option for parameter in group.params for option in parameter.opts} == of_all


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command):
    assert "Usage:" in run(command, "--help").stdout


def test_version_is_printed(run):
    assert re.fullmatch(r"gate2static \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: no such recipe"),
        (["train", "nowhere.yaml", "--budget-ms", "8"], "--budget-ms and --device belong together"),
        (["train", str(TINY), "--budget-ms", "1e-5", "--device", "jetson-orin-agx"], "below what can be reached"),
        (["train", str(TINY), "--baselines", "nowhere"], "nowhere/separate/left/ckpt.pt: no such checkpoint"),
        (["sweep", str(TINY), "--seeds", "1", "--baselines", "runs"], "runs/seed-1/separate/left/ckpt.pt: no such"),
        (["prune", "nowhere.pt", "-o", "out"], "nowhere.pt: no such checkpoint"),
        (["verify", "nowhere.pt", "static"], "static is not a static model"),
        (["export", "nowhere"], "nowhere is not a static model"),
        (["bench", "nowhere.onnx"], "cannot read the ONNX file nowhere.onnx"),
        (["report", "nowhere"], "nowhere/run.json: no such file"),
        (["report", "nowhere", "-o", "page"], "the report of one run lies in the run's folder"),
        (["report", "nowhere", "elsewhere"], "a report over 2 runs lies in a folder of its own; give -o FOLDER"),
        (["report", "nowhere", "nowhere", "-o", "page"], "a run is given twice"),
        (["deliver", "nowhere"], "nowhere/run.json: no such file"),
        (["sweep", str(TINY), "--seeds", "0,one"], "--seeds: found '0,one'; allowed are different whole numbers"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(run, args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args, code=2)
    assert says in one_line(result)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_debug_shows_the_traceback_before_the_line(run, tmp_path):
    result = run("--debug", "report", tmp_path, code=2)
    assert "Traceback (most recent call last)" in result.stderr
    assert "CheckpointError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("gate2static: ")


@pytest.mark.parametrize(
    "args",
    [
        ["prune", "ckpt.pt"],
        ["prune", "ckpt.pt", "-o", "x", "--dtype", "int8"],
        ["prune", "s.ckpt.pt", "-o", "s", "--budget", "macs=0.5"],
        ["profile", "--threads", "0"],
        ["profile", "-o", "."],
        ["profile", "--emit", "kit"],
        ["profile", "static", "--import", "kit"],
        ["export", "static", "--fp16", "--int8"],
        ["prune", "ckpt.pt", "--dry-run", "--json", "-"],
        ["export", "static", "--batch", "0"],
        ["export", "static", "--batch", "8,1,1"],
        ["export", "static", "--batch", "1,x"],
        ["bench"],
        ["nonsense"],
        ["train", "recipe.yaml", "--epochs", "3"],
    ],
)
def test_wrong_usage_is_exit_status_2(run, args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Traceback" not in run(*args, code=2).stderr


def test_an_interruption_says_what_to_type(run, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("gate2static.train.train", interrupted)
    recipe = bundled_recipe(RECIPE)
    line = one_line(run("train", recipe, "--set", "seed=1", "--run-dir", tmp_path / "my run", code=130))
    assert line.endswith(f"gate2static train {recipe} --set seed=1 --run-dir '{tmp_path}/my run' --resume")
    again = one_line(run("train", recipe, "--resume", code=130))
    assert again.count("--resume") == 1


def test_a_full_disk_is_one_line_and_exit_status_2(run, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "report.html"))

    monkeypatch.setattr("gate2static.report.write_report", full)
    assert "report.html: No space left on device" in one_line(run("report", tmp_path, code=2))


def test_a_bug_is_one_line_with_a_status_of_its_own(run, monkeypatch, tmp_path):
    """Tracebacks ended with status 1, which means "not equal" to whoever called `verify`."""

    def broken(*args, **kwargs):
        raise ZeroDivisionError("three by zero")

    monkeypatch.setattr("gate2static.report.write_report", broken)
    line = one_line(run("report", tmp_path, code=3))
    assert "this is a bug, please report it: ZeroDivisionError: three by zero; gate2static --debug report" in line
    assert "Traceback (most recent call last)" in run("--debug", "report", tmp_path, code=3).stderr


def test_doctor_writes_what_a_machine_can_read(run, tmp_path):
    findings = json.loads(run("doctor", "--json", "-").stdout)
    assert {"item", "found", "state", "advice"} == set(findings[0])
    run("doctor", "--json", tmp_path / "doctor.json")
    assert [f["item"] for f in json.loads((tmp_path / "doctor.json").read_text())] == [f["item"] for f in findings]


@pytest.mark.slow
def test_train_goes_on_where_it_was_killed(tmp_path, tiny):
    """Started as a user would, so that the signal meets the real process."""
    run_dir = tmp_path / "run"
    sets = [word for override in tiny for word in ("--set", override)]
    recipe = str(bundled_recipe(RECIPE))
    command = ["train", recipe, *sets, "--set", "training.shared.epochs=400", "--run-dir", str(run_dir)]
    process = subprocess.Popen([sys.executable, "-c", STARTED, *command], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (run_dir / "shared" / "ckpt.pt").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--run-dir {run_dir} --resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    torch.load(run_dir / "shared" / "ckpt.pt", weights_only=True)
    assert not list(run_dir.rglob("*.tmp"))


ARGUMENTS = {
    **{command: ["x"] for command in COMMANDS if command not in ("demo", "profile", "recipes", "doctor")},
    "verify": ["ckpt.pt", "static"],
    "predict": ["static", "--latency", "a100"],
}
"""Arguments of a command that exist nowhere: what a command says of them comes after its options."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_looks_before_its_work_whether_its_json_can_be_written(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    said = one_line(run(command, *ARGUMENTS.get(command, []), "--json", "file/x.json", code=2))
    assert said == "gate2static: cannot write file/x.json: Not a directory. Choose another path."
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_profile_looks_before_it_measures_whether_its_table_can_be_written(run, tmp_path, monkeypatch):
    """It measured for minutes, and then could not write what it had measured."""

    def measured(*args, **kwargs):
        raise AssertionError("measured")

    monkeypatch.setattr("gate2static.profiling.profile_for", measured)
    (tmp_path / "file").touch()
    assert "cannot write" in one_line(run("profile", "-o", tmp_path / "file" / "x.json", code=2))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
