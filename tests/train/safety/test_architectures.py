"""Safe architectures: tasks that lose have their single-task networks, and what they no longer need is gone."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gate2static.data import describe_data, load_data
from gate2static.errors import CheckpointError, RecipeError
from gate2static.recipe import Recipe, load_recipe
from gate2static.tasks import PairedTest, build_tasks
from gate2static.train import RunResult, sweep
from gate2static.train.loop.checkpoints import load_checkpoint
from gate2static.train.processes.devices import start_fabric
from gate2static.train.safety.architectures import make_architecture_safe
from gate2static.train.safety.comparison import Comparison, Tests
from gate2static.train.safety.rounds import SafeRun, read_safety

pytestmark = pytest.mark.slow

STAGE = "{epochs: 1, batch_size: 16}"
GAINS = {"left": -0.1, "right": 0.1, "mask": -0.2}


def recipe(*overrides: str) -> Recipe:
    small = [f"training.{kind}={STAGE}" for kind in ("single", "shared", "gated")]
    changes = ["data.options={train_images: 16, val_images: 10, test_images: 10}", "sweep=[]", *small, *overrides]
    return load_recipe(Path("recipes/digits_tiny.yaml"), changes)


def by_gain(self: Comparison, measured: Any, *, margin: float = 0.0) -> Tests:
    metrics = {"left": "accuracy", "right": "accuracy", "mask": "IoU"}
    return {
        task: {metric: PairedTest(gain=GAINS[task], p_value=0.9 if GAINS[task] < 0 else 0.0)}
        for task, metric in metrics.items()
    }


@pytest.fixture(scope="module", autouse=True)
def planned() -> Iterator[None]:
    """So little training shows nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Comparison, "tests", by_gain)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """A run with a tree of tasks; read it, never write to it."""
    folder = tmp_path_factory.mktemp("safe")
    return folder, sweep(recipe("safe=true", "architectures=[branching]"), folder, progress=False)


def test_tasks_that_lose_take_their_networks_the_worst_first(run: tuple[Path, RunResult]) -> None:
    folder, result = run
    separate, _, branching, safe = result.rows
    assert (safe.name, safe.kind) == ("branching-safe", "architecture")
    assert safe.safety is not None
    assert safe.safety == read_safety(folder / "branching-safe" / "ckpt.pt")
    worse_and_opened = [(one.worse, one.opened) for one in safe.safety.rounds]
    assert worse_and_opened == [(("mask", "left"), "mask"), (("left",), "left"), ((), None)]
    assert (safe.safety.stopped, safe.safety.unsafe, set(safe.tests)) == ("safe", (), {"right"})
    assert {task: safe.scores[task] for task in ("mask", "left")} == {t: separate.scores[t] for t in ("mask", "left")}
    assert safe.scores["right"] == branching.scores["right"]
    assert (safe.safety.macs_before, safe.safety.macs_after) == (branching.macs, safe.macs)
    # One task alone is left in the tree, of which nobody computes the rest.
    assert (safe.macs, safe.parameters) == (separate.macs, separate.parameters)
    assert branching.macs < separate.macs


def test_their_networks_are_those_of_the_run(run: tuple[Path, RunResult]) -> None:
    folder, _ = run
    stored = load_checkpoint(folder / "branching-safe" / "ckpt.pt")["model"]
    for task in ("mask", "left"):
        single = load_checkpoint(folder / "separate" / task / "ckpt.pt")["model"]
        assert {f"own.{task}.{key}" for key in single} == {key for key in stored if key.startswith(f"own.{task}.")}
        assert all(torch.equal(value, stored[f"own.{task}.{key}"]) for key, value in single.items())


def safe_run(folder: Path, wanted: str) -> tuple[SafeRun, Callable[..., None]]:
    """Returns the safe network of a run's folder, and what makes it."""
    one = recipe(wanted, "architectures=[branching]")
    tasks = build_tasks(one.tasks, describe_data(one.data))
    safe = SafeRun(name="branching-safe", before="branching", recipe=one, tasks=tasks, run_dir=folder)
    splits = load_data(one.data, [task.name for task in tasks])
    fabric = start_fabric(one)
    fabric.launch()
    return safe, partial(make_architecture_safe, safe, splits, fabric=fabric)


def test_a_task_that_the_budget_does_not_allow_stays(run: tuple[Path, RunResult], tmp_path: Path) -> None:
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    safe, make = safe_run(tmp_path, "safe={budget: {macs: 0.99}}")
    make(go_on=False)
    safety = read_safety(safe.checkpoint)
    assert (safety.stopped, safety.opened, safety.unsafe) == ("budget", ("mask",), ("left",))


def test_a_safe_network_of_another_margin_is_not_taken_for_this_one(run: tuple[Path, RunResult]) -> None:
    _, make = safe_run(run[0], "safe={margin: 0.01}")
    with pytest.raises(CheckpointError, match="another safe: margin"):
        make(go_on=True)


def test_limits_by_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"safe\.budget\.macs: limits by task are for gated networks; give"):
        sweep(recipe("safe={budget: {macs: {left: 0.5}}}", "architectures=[branching]"), tmp_path, progress=False)
