"""Searches that really train: whoever works on them and whoever is killed, the networks are the same to the bit."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate2static.bench import NETWORK_BACKENDS
from gate2static.cli.commands import app
from gate2static.front.records import load_trials
from gate2static.recipe import load_recipe
from gate2static.report.run_folder import read_content
from gate2static.search.trial import Searching, latency_measure, run_trial
from gate2static.train import load_result
from tests.search.conftest import TINY, recipe_with, record_of

SMALL = (
    "data.options={train_images: 32, val_images: 10, test_images: 10}",
    "tasks=[{name: left, kind: classification}]",
    "training.single={epochs: 1, batch_size: 16}",
    "training.shared={epochs: 1, batch_size: 16}",
)
ONE_POINT = "{space: {gating.group_size: [layer]}, sampler: grid, objectives: [delta_mtl], stop_early: true}"


@pytest.mark.slow
def test_workers_that_are_killed_end_with_the_networks_of_an_undisturbed_search(tmp_path: Path) -> None:
    """The first trial has another shared network than the two others, which are equal."""
    space = "{training.shared.epochs: [1, 2], gating.group_size: [4, layer]}"
    command = [sys.executable, "-m", "benchmarks.search.chaos", "--folder", str(tmp_path), "--space", space]
    ended = subprocess.run([*command, "--trials", "3", "--kills", "3"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"3 workers killed in \d search(es)?, 0 of which ended otherwise", ended.stdout)

    shared = tmp_path / "disturbed-0"
    trials = load_trials(shared)
    assert [trial.slot for trial in trials] == [0, 1, 2]
    assert len({trial.row for trial in trials}) == 2
    runs = sorted({trial.networks[0].run for trial in trials})
    assert (len(runs), runs[0]) == (2, "seed-3")
    rows = [{row.name: row for row in load_result(shared / run).rows} for run in runs]
    assert [len(of_run) for of_run in rows] == [3, 3]
    assert rows[0]["separate"] == rows[1]["separate"]
    assert len({(shared / run / "separate/left/ckpt.pt").stat().st_ino for run in runs}) == 1, "trained twice"
    # Its networks are those of any other run.
    network = shared / runs[0] / trials[-1].row
    runner = CliRunner()
    assert runner.invoke(app, ["prune", str(network / "ckpt.pt"), "-o", str(network / "static")]).exit_code == 0
    assert trials[-1].row in {row.name for row in read_content(shared / runs[0]).rows}


@pytest.mark.slow
def test_a_hopeless_trial_ends_after_the_epoch_that_shows_it(tmp_path: Path) -> None:
    recipe = load_recipe(TINY, [*SMALL, "training.gated={epochs: 3, batch_size: 16}", f"search={ONE_POINT}"])
    searching = Searching(recipe=recipe, run_dir=tmp_path, measure_ms=None, say=print, progress=False)
    gains: list[float] = []

    def is_hopeless(epochs: int, gain: float) -> bool:
        gains.append(gain)
        return epochs == 2

    trial = run_trial(searching, 0, {"gating.group_size": "layer"}, is_hopeless)
    assert trial.stopped_after == 2
    assert trial.networks == ()
    assert load_trials(tmp_path) == (trial,)
    assert [row.name for row in load_result(tmp_path / "seed-0").rows] == ["separate", "shared"]
    with (tmp_path / "seed-0" / trial.row / "log.csv").open() as file:
        ours = [float(row["val/left"]) for row in csv.DictReader(file)]
    with (tmp_path / "seed-0/separate/left/log.csv").open() as file:
        separate = [float(row["val/left"]) for row in csv.DictReader(file)][-1]
    assert gains == pytest.approx([(value - separate) / separate for value in ours])


def test_a_trial_with_the_recipe_of_a_finished_one_takes_its_result(tmp_path: Path) -> None:
    recipe = recipe_with("trials: 3")
    point = {"sparsity_weight": 3.0, "gating.group_size": 4}
    finished = record_of(recipe, 0, point)
    finished.save(tmp_path)
    # Nothing can be trained here: there are no baselines, and no measure of latency is given.
    searching = Searching(recipe=recipe, run_dir=tmp_path, measure_ms=None, say=pytest.fail, progress=False)
    trial = run_trial(searching, 2, point)
    assert trial == finished.model_copy(update={"slot": 2})
    assert [record.slot for record in load_trials(tmp_path)] == [0, 2]


def test_a_device_says_whether_it_is_timed_or_predicted() -> None:
    assert latency_measure(None) == (None, "")
    assert latency_measure(NETWORK_BACKENDS[0])[1] == f"timed on {NETWORK_BACKENDS[0]}"
    assert latency_measure("a100")[1] == "estimated from the data sheet of a100"
