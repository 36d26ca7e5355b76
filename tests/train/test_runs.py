"""Whole runs: rows, sweeps, resumption to the bit after a kill, and folders that are refused."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gate2static.data import describe_data
from gate2static.errors import CheckpointError, RecipeError, TrainingError
from gate2static.recipe import Recipe, load_recipe
from gate2static.tasks import build_tasks, delta_mtl, main_scores
from gate2static.train import RunResult, load_result, runs, sweep, train
from gate2static.train.loop.checkpoints import load_checkpoint, save_checkpoint
from gate2static.train.results import ResultRow
from gate2static.train.safety import comparison
from tests.train.conftest import SMALL, TINY

pytestmark = pytest.mark.slow

Run = tuple[Path, RunResult]

# Trains until a checkpoint is being written for the nth time, writes half of it and kills itself.
KILLED = """
import os, signal, sys
import torch
from gate2static.recipe import load_recipe
from gate2static import files
from gate2static.train import train

torch.set_num_threads(1)
left = int(sys.argv[3])
write = files._write

def killed(descriptor, content):
    global left
    left -= bytes(content[:2]) == b"PK"  # a checkpoint is a zip file, a log or run.json is none
    if left == 0:
        os.write(descriptor, bytes(content)[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(descriptor, content)

files._write = killed
train(load_recipe(sys.argv[1]), sys.argv[2], progress=False)
"""


def checkpoints(run_dir: Path) -> dict[str, dict[str, Any]]:
    return {str(path.relative_to(run_dir)): load_checkpoint(path) for path in sorted(run_dir.rglob("ckpt.pt"))}


def test_a_run_holds_a_row_and_a_checkpoint_for_every_network(small: Recipe, whole_run: Run) -> None:
    run_dir, result = whole_run
    assert load_result(run_dir) == result
    assert [(row.name, row.kind, row.sparsity_weight) for row in result.rows] == [
        ("separate", "separate", None),
        ("shared", "shared", None),
        ("gated-60", "gated", 60.0),
    ]
    assert all((run_dir / path).is_file() for row in result.rows for path in row.checkpoints)
    assert [(t.name, t.metric, t.higher_is_better) for t in result.tasks] == [
        ("left", "accuracy", True),
        ("mask", "IoU", True),
    ]
    assert (run_dir / "gated-60" / "log.csv").read_text().count("\n") == 3


def test_rows_are_compared_with_the_single_task_networks(small: Recipe, whole_run: Run) -> None:
    separate, *others = whole_run[1].rows
    assert separate.delta_mtl == 0
    tasks = build_tasks(small.tasks, describe_data(small.data))
    assert all(row.delta_mtl == delta_mtl(row.metrics, separate.metrics, tasks) for row in others)


def test_rows_hold_all_metrics_and_old_rows_only_the_main_ones(small: Recipe, whole_run: Run) -> None:
    tasks = build_tasks(small.tasks, describe_data(small.data))
    assert all(main_scores(row.scores, tasks) == row.metrics for row in whole_run[1].rows)
    old = whole_run[1].rows[0].model_dump(exclude={"scores"})
    assert ResultRow.model_validate(old).scores == {}


def test_costs_are_those_of_the_static_networks(whole_run: Run) -> None:
    separate, shared, gated = whole_run[1].rows
    log = load_checkpoint(whole_run[0] / gated.checkpoints[0])["position"]["log"]
    assert gated.macs == log[-1]["macs"]
    assert shared.macs < gated.macs < separate.macs
    assert shared.parameters < gated.parameters <= separate.parameters


def test_baselines_of_another_run_are_taken_instead_of_trained(
    whole_run: Run, tmp_path: Path, assert_same: Callable[[Any, Any], None]
) -> None:
    recipe = load_recipe(TINY, [*SMALL, "training.gated.epochs=1", "sparsity_weight=30"])
    result = train(recipe, tmp_path, progress=False, baselines=whole_run[0])
    assert result.rows[:2] == whole_run[1].rows[:2]
    assert [row.name for row in result.rows[2:]] == ["gated-30"]
    for network in ("separate/left", "separate/mask", "shared"):
        for file in ("ckpt.pt", "ckpt-best.pt"):
            assert (tmp_path / network / file).samefile(whole_run[0] / network / file), "neither trained nor copied"
        assert (tmp_path / network / "log.csv").read_text() == (whole_run[0] / network / "log.csv").read_text()
    with pytest.raises(TrainingError, match="already holds a run"):
        train(recipe, tmp_path, progress=False, baselines=whole_run[0])


def test_baselines_of_another_recipe_are_refused_with_all_that_differs(whole_run: Run, tmp_path: Path) -> None:
    recipe = load_recipe(
        TINY, [*SMALL, "seed=1", "training.shared.epochs=2", "gating.branch_init=shared", "gating.branch_epoch=1"]
    )
    different = (
        "seed: 0 there, 1 here; training.shared: epochs: 1 there, 2 here; "
        "gating.branch_epoch: 1 here, and no ckpt-epoch-1.pt there"
    )
    with pytest.raises(CheckpointError, match=f"its baselines are those of another recipe: {different}. Take the"):
        train(recipe, tmp_path / "run", progress=False, baselines=whole_run[0])
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_killed_goes_on_bit_for_bit(
    small: Recipe, whole_run: Run, tmp_path: Path, assert_same: Callable[[Any, Any], None]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small.model_dump(mode="json")))
    run_dir = tmp_path / "run"
    # Twelve checkpoints come before the gated network's; its fourth ends the first epoch.
    child = subprocess.run([sys.executable, "-c", KILLED, recipe, run_dir, "16"], capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert list((run_dir / "gated-60").glob(".ckpt.pt.*.tmp"))
    position = load_checkpoint(run_dir / "gated-60" / "ckpt.pt")["position"]
    assert (position["epoch"], position["step"]) == (0, 2)
    result = train(small, run_dir, resume=True, progress=False)
    assert result == whole_run[1]
    assert_same(checkpoints(run_dir), checkpoints(whole_run[0]))
    assert not list(run_dir.rglob("*.tmp"))
    for log in whole_run[0].rglob("log.csv"):
        assert (run_dir / log.relative_to(whole_run[0])).read_bytes() == log.read_bytes()


def test_the_log_of_a_network_that_was_killed_behind_its_last_checkpoint_is_whole(
    small: Recipe, whole_run: Run, tmp_path: Path
) -> None:
    """The row of the last epoch was in the checkpoint and never in `log.csv`, because nothing was left to train."""
    copy_run(whole_run[0], tmp_path)
    log = tmp_path / "gated-60" / "log.csv"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    train(small, tmp_path, resume=True, progress=False)
    assert log.read_text() == whole


def test_a_metric_of_nothing_does_not_end_a_run(
    small: Recipe, whole_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a short training a mask's IoU is 0, and no gain is relative to it: the run ended, as did each resume."""
    evaluate = comparison.evaluate

    def nothing(*args: Any, **named: Any) -> Any:
        scores = evaluate(*args, **named)
        return {task: dict.fromkeys(metrics, 0.0) for task, metrics in scores.items()}

    monkeypatch.setattr(comparison, "evaluate", nothing)
    copy_run(whole_run[0], tmp_path)
    (tmp_path / "run.json").unlink()
    result = train(small, tmp_path, resume=True, progress=False)
    assert [row.delta_mtl for row in result.rows] == [None] * 3
    assert load_result(tmp_path) == result


TRAINED = """
import sys
import torch
from gate2static.errors import TrainingError
from gate2static.recipe import load_recipe
from gate2static.train import train

torch.set_num_threads(1)
try:
    train(load_recipe(sys.argv[1]), sys.argv[2], resume=True, progress=False)
except TrainingError as error:
    sys.exit(str(error))
"""


def test_of_two_trainings_on_one_folder_one_goes_on_and_is_undisturbed(
    small: Recipe, whole_run: Run, tmp_path: Path, assert_same: Callable[[Any, Any], None]
) -> None:
    """Both went on: one ended with "No such file or directory", and the checkpoints differed from a single one's."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small.model_dump(mode="json")))
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", TRAINED, recipe, run_dir]
    pair = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in pair]
    refused = [text for process, text in zip(pair, said, strict=True) if process.returncode]
    # Where the second one starts late, it finds the first one's run finished.
    assert len(refused) <= 1, said
    assert all("is in use by" in text and text.count("\n") == 1 for text in refused)
    assert_same(checkpoints(run_dir), checkpoints(whole_run[0]))


def test_a_sweep_goes_on_after_its_last_row_and_trains_the_baselines_once(
    small: Recipe, whole_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_run(whole_run[0], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("ckpt.pt") if "gated" not in str(path)}
    longer = small.model_copy(update={"sweep": (60.0, 0.0)})
    result = sweep(longer, tmp_path, resume=True, progress=False)
    assert [row.name for row in result.rows] == ["separate", "shared", "gated-60", "gated-0"]
    assert result.rows[:3] == whole_run[1].rows
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_sweep_over_targets_has_a_network_for_each_combination(small: Recipe, whole_run: Run, tmp_path: Path) -> None:
    copy_run(whole_run[0], tmp_path)
    grid = small.model_copy(update={"sweep": (60.0,), "sweep_targets": (0.0, 0.5)})
    result = sweep(grid, tmp_path, resume=True, progress=False)
    expected = [f"gated-60-{'-'.join(values)}" for values in product(("0", "0.5"), repeat=len(small.tasks))]
    assert [row.name for row in result.rows if row.name.startswith("gated-60-")] == expected
    last = load_checkpoint(tmp_path / expected[-1] / "ckpt.pt")
    assert [task["target"] for task in last["recipe"]["tasks"]] == [0.5] * len(small.tasks)


def test_other_targets_can_go_on_from_the_same_baselines(small: Recipe, whole_run: Run, tmp_path: Path) -> None:
    copy_run(whole_run[0], tmp_path)
    tasks = tuple(task.model_copy(update={"target": 0.25}) for task in small.tasks)
    other = small.model_copy(update={"tasks": tasks, "sweep": (7.0,)})
    assert sweep(other, tmp_path, resume=True, progress=False).rows[-1].name == "gated-7"
    with pytest.raises(CheckpointError, match=r"gated-60/ckpt\.pt: was trained with another targets"):
        sweep(other.model_copy(update={"sweep": (60.0,)}), tmp_path, resume=True, progress=False)


def copy_run(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


def test_a_folder_that_holds_a_run_is_not_overwritten(small: Recipe, whole_run: Run) -> None:
    with pytest.raises(TrainingError, match="already holds a run; continue with --resume, or choose another folder"):
        train(small, whole_run[0], progress=False)


def test_going_on_with_another_recipe_names_the_difference(small: Recipe, whole_run: Run) -> None:
    with pytest.raises(CheckpointError, match="was trained with another seed: 0 there, 1 here"):
        train(small.model_copy(update={"seed": 1}), whole_run[0], resume=True, progress=False)


def test_single_task_networks_know_no_weight_of_their_task(small: Recipe, whole_run: Run, tmp_path: Path) -> None:
    tasks = tuple(task.model_copy(update={"weight": 7.0}) for task in small.tasks)
    result = sweep(small.model_copy(update={"tasks": tasks, "sweep": (7.0,)}), tmp_path, resume=True, progress=False)
    assert result.rows[0] == whole_run[1].rows[0]
    one, other = (checkpoints(folder)["shared/ckpt.pt"]["model"] for folder in (whole_run[0], tmp_path))
    assert any(not torch.equal(one[name], other[name]) for name in one), "the shared network knows it"
    with pytest.raises(
        CheckpointError, match=r"shared/ckpt\.pt: was trained with another tasks: item 0: weight: 7\.0 there"
    ):
        sweep(small, tmp_path, resume=True, progress=False)


def test_rows_of_last_checkpoints_are_not_mixed_with_the_best(small: Recipe, whole_run: Run, tmp_path: Path) -> None:
    copy_run(whole_run[0], tmp_path)
    best = small.model_copy(update={"training": small.training.model_copy(update={"keep": "best"}), "sweep": (7.0,)})
    with pytest.raises(
        TrainingError, match=r"its rows are of the last checkpoints, training\.keep is best; resume with"
    ):
        sweep(best, tmp_path, resume=True, progress=False)


def test_a_folder_that_cannot_be_made_is_found_before_training(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"cannot write .*file/run: Not a directory; choose another folder"):
        train(small, tmp_path / "file" / "run", progress=False)
    with pytest.raises(TrainingError, match=r"cannot write .*file: File exists; choose another folder"):
        train(small, tmp_path / "file", progress=False)


def test_a_checkpoint_from_before_some_settings_existed_was_trained_with_their_defaults(
    small: Recipe, whole_run: Run, tmp_path: Path
) -> None:
    copy_run(whole_run[0], tmp_path)
    path = tmp_path / "gated-60" / "ckpt.pt"
    content = load_checkpoint(path)
    for later in ("mixing", "tie_residual"):
        del content["identity"]["gating"][later]
    for kind in ("single", "shared", "gated"):
        weights = content["identity"][f"training.{kind}"]["weights"]
        del weights["kind"], weights["momentum"], weights["schedule"]["warmup_steps"]
    del content["identity"]["budget"]
    save_checkpoint(path, content)
    assert train(small, tmp_path, resume=True, progress=False) == whole_run[1]
    hard = small.model_copy(update={"gating": small.gating.model_copy(update={"mixing": "hard"})})
    with pytest.raises(CheckpointError, match="another gating: mixing: softmax there, hard here"):
        train(hard, tmp_path, resume=True, progress=False)


def test_a_full_disk_ends_in_one_line_and_training_goes_on_later(
    small: Recipe, whole_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, left = os.fsync, 3

    def full(descriptor: int) -> None:
        nonlocal left
        left -= stat.S_ISREG(os.fstat(descriptor).st_mode)  # folders are synchronised too
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match="cannot write .*: No space left on device"):
            train(small, tmp_path, progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["ckpt-best.pt", "ckpt.pt"]
    load_checkpoint(tmp_path / "separate" / "left" / "ckpt.pt")


def test_a_wrong_name_is_refused_before_anything_is_written(small: Recipe, tmp_path: Path) -> None:
    wrong = small.model_copy(update={"model": small.model.model_copy(update={"name": "resnet21"})})
    with pytest.raises(RecipeError, match="found resnet21; did you mean resnet20"):
        train(wrong, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_progress_goes_to_stderr(
    small: Recipe, whole_run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(small, whole_run[0], resume=True, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "separate/left" in err
    assert "gated-60" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; .* is not a folder that `train` or `sweep` wrote"),
        ("{", "cannot be read as JSON"),
        (
            json.dumps({"format": "gate2static-run", "version": 2, "recipe": {}, "tasks": []}),
            "version: Input should be 1",
        ),
        (json.dumps({"format": "other"}), "not a run of this version of gate2static"),
    ],
)
def test_a_folder_without_a_run_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_result(tmp_path)


def test_epochs_are_not_selected_on_the_test_images(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = runs.load_data
    monkeypatch.setattr(runs, "load_data", lambda *args: replace(splits := honest(*args), val=splits.test))
    selecting = small.model_copy(update={"training": small.training.model_copy(update={"keep": "best"})})
    with pytest.raises(RecipeError, match=r"training\.keep and patience: .* set data\.options\.val_images"):
        train(selecting, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
