"""Searches that really train: whoever works on them and whoever is killed, the networks are the same to the bit."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gate2static.bench import NETWORK_BACKENDS
from gate2static.cli.commands import app
from gate2static.front.pareto import as_json, read_front
from gate2static.front.records import load_trials
from gate2static.recipe import Recipe, load_recipe
from gate2static.report.run_folder import read_content
from gate2static.search import search
from gate2static.search.trial import Searching, latency_measure, run_trial
from gate2static.train import load_result
from gate2static.train.loop.checkpoints import load_checkpoint
from tests.search.conftest import recipe_with, record_of

TINY = Path("recipes/digits_tiny.yaml")
SMALL = [
    "data.options={train_images: 32, val_images: 10, test_images: 10}",
    "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
    "training.single={epochs: 1, batch_size: 16}",
    "training.shared={epochs: 1, batch_size: 16}",
    "training.gated={epochs: 1, batch_size: 16}",
    "training.checkpoint_steps=1",
]
STARTED = """
import torch
from gate2static.cli import main
torch.set_num_threads(1)
main()
"""


def _recipe(search_part: str) -> Recipe:
    return load_recipe(TINY, [*SMALL, f"search={search_part}"])


def _start(folder: Path, search_part: str) -> "subprocess.Popen[str]":
    overrides = [word for override in [*SMALL, f"search={search_part}"] for word in ("--set", override)]
    command = [sys.executable, "-c", STARTED, "search", str(TINY), "--run-dir", str(folder), *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _front(folder: Path) -> object:
    front = as_json(read_front([folder]))
    for point in front["points"]:
        for network in point["networks"]:
            del network["folder"]
    return front


@pytest.mark.slow
def test_two_workers_one_of_them_killed_end_with_the_networks_of_an_undisturbed_search(tmp_path: Path) -> None:
    """The first trial has another shared network than the two others, which are equal."""
    space = "{training.shared.epochs: [1, 2], gating.group_size: [4, layer]}"
    part = f"{{space: {space}, sampler: random, trials: 3, seeds: [3]}}"
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    doomed = _start(shared, part)
    while not (shared / "search.journal").exists():
        assert doomed.poll() is None, doomed.communicate()[0]
        time.sleep(0.05)
    killer = threading.Thread(target=_kill_within_a_trial, args=(doomed, shared))
    killer.start()
    lines: list[str] = []
    search(_recipe(part), shared, say=lines.append, progress=False)
    killer.join()
    assert doomed.returncode == -signal.SIGKILL
    assert sum("is given back: its worker is gone" in line for line in lines) == 1
    search(_recipe(part), alone, progress=False)

    trials = load_trials(shared)
    assert [trial.slot for trial in trials] == [0, 1, 2]
    assert len({trial.row for trial in trials}) == 2
    assert trials == load_trials(alone)
    assert _front(shared) == _front(alone)
    files = sorted(path.relative_to(alone) for path in alone.glob("seed-*/**/ckpt.pt"))
    assert len(files) == 2 * (2 + 1 + 1)
    for file in files:
        ours, theirs = (load_checkpoint(folder / file)["model"] for folder in (shared, alone))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), file

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


def _kill_within_a_trial(worker: "subprocess.Popen[str]", folder: Path) -> None:
    """Kills a worker once it has saved a step of a gated network."""
    while True:
        for file in folder.glob("seed-3*/gated-*/.gate2static.lock"):
            holder = json.loads(file.read_text() or "{}").get("gate2static", {}).get("process")
            if holder == worker.pid and file.with_name("ckpt.pt").exists():
                worker.send_signal(signal.SIGKILL)
                worker.communicate()
                return
        time.sleep(0.02)


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
