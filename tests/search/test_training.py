"""Searches that really train: whoever works on them and whoever is killed, the networks are the same to the bit."""

import os
import signal
import subprocess
import sys
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
from gate2static.search import search
from gate2static.search.trial import latency_measure
from gate2static.train import load_result
from gate2static.train.loop.checkpoints import load_checkpoint

TINY = Path("recipes/digits_tiny.yaml")
SMALL = [
    "data.options={train_images: 48, val_images: 10, test_images: 20}",
    "tasks=[{name: left, kind: classification}, {name: mask, kind: mask}]",
    "training.single={epochs: 1, batch_size: 16}",
    "training.shared={epochs: 1, batch_size: 16}",
    "training.gated={epochs: 2, batch_size: 16}",
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


def _plain(folder: Path) -> object:
    front = as_json(read_front([folder]))
    for point in front["points"]:
        for network in point["networks"]:
            del network["folder"]
    return front


@pytest.mark.slow
def test_two_workers_one_of_them_killed_end_with_the_networks_of_an_undisturbed_search(tmp_path: Path) -> None:
    part = "{space: {sparsity_weight: [3, 90], gating.group_size: [1, 4, layer]}, sampler: grid}"
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    killed = _start(shared, part)
    while not any(shared.glob("seed-0/gated-*/ckpt.pt")):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    second = _start(shared, part)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    lines: list[str] = []
    search(_recipe(part), shared, say=lines.append, progress=False)
    told = second.communicate()[0]
    assert second.returncode == 0, told
    assert (told + "\n".join(lines)).count("is given back: its worker is gone") == 1
    search(_recipe(part), alone, progress=False)
    assert [trial.slot for trial in load_trials(shared)] == list(range(6))
    assert load_trials(shared) == load_trials(alone)
    assert _plain(shared) == _plain(alone)
    files = sorted(path.relative_to(alone) for path in alone.glob("seed-0/**/ckpt.pt"))
    assert len(files) == 2 + 1 + 6
    for file in files:
        ours, theirs = (load_checkpoint(folder / file)["model"] for folder in (shared, alone))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), file
    rows = load_result(shared / "seed-0").rows
    assert sorted(row.name for row in rows) == sorted(row.name for row in load_result(alone / "seed-0").rows)


@pytest.mark.slow
def test_baselines_are_trained_once_and_networks_go_the_usual_road(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = "{space: {training.shared.balancing: [sum, pcgrad]}, sampler: grid, seeds: [3], objectives: [delta_mtl]}"
    trials = search(_recipe(part), tmp_path, progress=False)
    runs = [trial.networks[0].run for trial in trials]
    assert runs[0] == "seed-3"
    assert runs[1].startswith("seed-3-")
    singles = [os.stat(tmp_path / run / "separate/left/ckpt.pt").st_ino for run in runs]
    assert singles[0] == singles[1]
    rows = [{row.name: row for row in load_result(tmp_path / run).rows} for run in runs]
    assert rows[0]["separate"].metrics == rows[1]["separate"].metrics
    assert rows[0]["separate"].seed == 3
    assert rows[1]["shared"].parameters == rows[0]["shared"].parameters
    network = tmp_path / runs[1] / trials[1].row
    runner = CliRunner()
    assert runner.invoke(app, ["prune", str(network / "ckpt.pt"), "-o", str(network / "static")]).exit_code == 0
    assert runner.invoke(app, ["verify", str(network / "ckpt.pt"), str(network / "static")]).exit_code == 0
    assert runner.invoke(app, ["report", str(tmp_path / runs[1])]).exit_code == 0
    # A trial with the recipe of a finished one takes its result.
    more = part.replace("sampler: grid", "sampler: random, trials: 4")
    monkeypatch.setattr("gate2static.search.trial.train_beside_others", pytest.fail)
    again = tmp_path / "again"
    again.mkdir()
    for run in runs:
        (again / run).symlink_to(tmp_path / run)
    assert {trial.row for trial in search(_recipe(more), again, progress=False)} <= {trial.row for trial in trials}


def test_a_device_says_whether_it_is_timed_or_predicted() -> None:
    assert latency_measure(None) == (None, "")
    assert latency_measure(NETWORK_BACKENDS[0])[1] == f"timed on {NETWORK_BACKENDS[0]}"
    assert latency_measure("a100")[1] == "estimated from the data sheet of a100"
