"""A whole run: the single-task networks, the shared network, one gated network a sparsity weight, a row for each."""

import math
from pathlib import Path
from typing import Literal

import torch

from gate2static.data import describe_data, load_data
from gate2static.errors import MissingDependencyError, TrainingError
from gate2static.gates import GatedModel
from gate2static.recipe import Recipe
from gate2static.tasks import Task, build_tasks
from gate2static.train.batches import length
from gate2static.train.checkpoints import FILE as CHECKPOINT
from gate2static.train.loop import train_stage
from gate2static.train.networks import build_gated, build_shared, build_single, gated_baseline, load_gated
from gate2static.train.progress import TrainingProgress
from gate2static.train.results import FILE as RESULT
from gate2static.train.results import RunResult, TaskInfo, load_result
from gate2static.train.rows import add_row
from gate2static.train.stage import Stage


def train(recipe: Recipe, run_dir: str | Path, *, resume: bool = False, progress: bool = True) -> RunResult:
    """Trains the single-task networks, the shared network and one gated network with λ_s = `recipe.sparsity_weight`.

    Args:
        recipe: What to train.
        run_dir: Where checkpoints, logs and `run.json` go (docs/design.md, "A run folder").
        resume: Whether to go on with what the folder holds; on the CPU the result is then, bit for bit, that of a run
            that was never interrupted.
        progress: Whether to show bars on stderr.

    Returns:
        What is in `run.json`: a row for the single-task networks, the shared and the gated one.

    Raises:
        RecipeError: A name or option that does not exist.
        TrainingError: A loss is no longer finite, the disk is full, or the folder already holds a run.
        CheckpointError: The run to go on with is damaged or another recipe's.
    """
    return _run(recipe, Path(run_dir), (recipe.sparsity_weight,), resume=resume, show=progress)


def sweep(recipe: Recipe, run_dir: str | Path, *, resume: bool = False, progress: bool = True) -> RunResult:
    """Like `train`, with one gated network for each λ_s of `recipe.sweep`; the baselines are trained once.

    `run.json` is written after every row, so an interrupted sweep goes on where it was.
    """
    return _run(recipe, Path(run_dir), recipe.sweep, resume=resume, show=progress)


def pick_device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that `training.device` means on this machine.

    Raises:
        MissingDependencyError: CUDA was asked for and torch finds none.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("training.device is cuda, but torch finds no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def _run(recipe: Recipe, run_dir: Path, weights: tuple[float, ...], *, resume: bool, show: bool) -> RunResult:
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    device = pick_device(recipe.training.device)
    result = _open_result(recipe, run_dir, tasks, resume=resume)
    splits = load_data(recipe.data)
    cost = _total_cost(recipe, length(splits.train), len(weights))
    with TrainingProgress(enabled=show, total_cost=cost) as progress:

        def fit(stage: Stage) -> None:
            train_stage(
                stage, splits, device=device, go_on=resume, progress=progress, cost=_step_cost(recipe, stage.kind)
            )

        def close(result: RunResult, name: str, folders: list[str], weight: float | None = None) -> RunResult:
            """Adds a network's row to `run.json`, unless it is there from before an interruption."""
            if any(row.name == name for row in result.rows):
                return result
            result = add_row(
                result,
                _trained(run_dir, name),
                name=name,
                checkpoints=tuple(f"{folder}/{CHECKPOINT}" for folder in folders),
                recipe=recipe,
                tasks=tasks,
                splits=splits,
                device=device,
                sparsity_weight=weight,
            )
            result.save(run_dir)
            return result

        for task in tasks:
            model = build_single(recipe, task.name)
            name = f"separate/{task.name}"
            fit(Stage(name=name, kind="single", model=model, tasks=(task,), recipe=recipe, run_dir=run_dir))
        result = close(result, "separate", [f"separate/{task.name}" for task in tasks])
        shared = build_shared(recipe)
        fit(Stage(name="shared", kind="shared", model=shared, tasks=tasks, recipe=recipe, run_dir=run_dir))
        result = close(result, "shared", ["shared"])
        for weight in weights:
            name = f"gated-{weight:g}"
            gated = build_gated(recipe, run_dir)
            fit(
                Stage(
                    name=name,
                    kind="gated",
                    model=gated,
                    tasks=tasks,
                    recipe=recipe,
                    run_dir=run_dir,
                    sparsity_weight=weight,
                )
            )
            result = close(result, name, [name], weight)
    return result


def _open_result(recipe: Recipe, run_dir: Path, tasks: tuple[Task, ...], *, resume: bool) -> RunResult:
    """The run's result so far, without rows if there is none."""
    if not resume and any(run_dir.rglob(CHECKPOINT)):
        raise TrainingError(f"{run_dir} already holds a run; go on with --resume, or choose another folder")
    rows = load_result(run_dir).rows if resume and (run_dir / RESULT).exists() else ()
    infos = (TaskInfo(name=t.name, metric=t.kind.metric_name, higher_is_better=t.kind.higher_is_better) for t in tasks)
    return RunResult(recipe=recipe.model_dump(mode="json"), tasks=tuple(infos), rows=rows)


def _trained(run_dir: Path, name: str) -> GatedModel:
    """A row's network as its checkpoints have it."""
    if name == "separate":
        return gated_baseline(run_dir, "separate")
    if name == "shared":
        return gated_baseline(run_dir, "shared")
    return load_gated(run_dir / name / CHECKPOINT)[0]


def _step_cost(recipe: Recipe, kind: str) -> int:
    """Backbone passes a step: one, or one a stream."""
    return len(recipe.tasks) + 1 if kind == "gated" else 1


def _total_cost(recipe: Recipe, images: int, gated: int) -> int:
    training = recipe.training
    stages = [("single", training.single)] * len(recipe.tasks) + [("shared", training.shared)]
    stages += [("gated", training.gated)] * gated
    return sum(_step_cost(recipe, kind) * s.epochs * math.ceil(images / s.batch_size) for kind, s in stages)
