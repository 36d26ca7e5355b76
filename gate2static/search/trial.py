"""One trial: its networks, their baselines, and what they are measured by."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from gate2static.bench import NETWORK_BACKENDS, Stopwatch
from gate2static.errors import StoppedError
from gate2static.files import is_file
from gate2static.front.records import Measured, NetworkRecord, TaskMetric, TrialRecord, load_trials
from gate2static.latency import latency_model
from gate2static.prune import prune
from gate2static.recipe import Recipe, parse, recipe_at
from gate2static.search.space import searched
from gate2static.static import StaticModel
from gate2static.tasks import relative_gain
from gate2static.train import ResultRow, RunResult, load_gated, load_result
from gate2static.train.loop.baselines import take_networks
from gate2static.train.loop.checkpoints import FILE as CHECKPOINT
from gate2static.train.loop.checkpoints import kept, load_checkpoint
from gate2static.train.loop.log import LogRow
from gate2static.train.results import FILE as RESULT
from gate2static.train.run_lock import locked
from gate2static.train.runs import train_beside_others, train_variants

Say = Callable[[str], None]
IsHopeless = Callable[[int, float], bool]
"""Is called with the number of trained epochs and Δ_MTL on the validation images behind them; True ends a trial."""
_OF_GATED_NETWORKS = ("name", "gating", "sparsity_weight", "budget", "search", "runs_dir", "architectures")
"""The parts of a recipe that no baseline depends on, besides `training.gated`, the tasks' targets and what sweeps."""


@dataclass(frozen=True, kw_only=True)
class Searching:
    """What a worker's trials have in common.

    Attributes:
        recipe: The recipe of the search.
        run_dir: The search's folder.
        measure_ms: Returns a static network's latency in ms; None where it is no objective.
        say: Tells the user what is waited for.
        progress: Whether training shows progress bars.
    """

    recipe: Recipe
    run_dir: Path
    measure_ms: Callable[[StaticModel], float] | None
    say: Say
    progress: bool


def latency_measure(device: str | None) -> tuple[Callable[[StaticModel], float] | None, str]:
    """Returns what measures latencies for a device, and how it does in words; neither without a device.

    Raises:
        BenchError: There is no such device.
    """
    if device is None:
        return None, ""
    if device in NETWORK_BACKENDS:
        return Stopwatch(device), f"timed on {device}"
    model = latency_model(device)
    how = "estimated from the data sheet of" if model.estimated else "predicted for"
    return lambda static: model.predict_ms(static.deployed(), static.example_inputs()), f"{how} {device}"


def run_trial(
    searching: Searching, slot: int, point: Mapping[str, Any], is_hopeless: IsHopeless | None = None
) -> TrialRecord:
    """Trains the networks of a trial, one per seed, and writes the trial's file.

    What is trained is not trained again: neither a baseline, nor a network that a trial with the same recipe trained.

    Args:
        searching: The search.
        slot: The trial's number.
        point: The values to try.
        is_hopeless: Looks at the first seed's network after its epochs; None lets all trials be.

    Raises:
        Gate2StaticError: As for `train`.
    """
    variant = recipe_at(searching.recipe, point)
    row = row_name(variant)
    equal = next((trial for trial in load_trials(searching.run_dir, row) if trial.networks), None)
    if equal is not None:
        record = equal.model_copy(update={"slot": slot, "point": dict(point)})
    else:
        record = _trained(searching, slot, point, variant, row, is_hopeless)
    record.save(searching.run_dir)
    return record


def _trained(
    searching: Searching,
    slot: int,
    point: Mapping[str, Any],
    variant: Recipe,
    row: str,
    is_hopeless: IsHopeless | None,
) -> TrialRecord:
    """Returns the trial whose networks are trained, or one that was stopped."""
    networks = []
    tasks: tuple[TaskMetric, ...] = ()
    for seed in searched(searching.recipe).seeds or (variant.seed,):
        seeded = variant.model_copy(update={"seed": seed})
        base = _base(seeded, searching.recipe.model_copy(update={"seed": seed, "search": None}))
        run = _run_name(base, searching.recipe)
        try:
            result = _network_trained(searching, base, searching.run_dir / run, row, seeded, is_hopeless)
        except StoppedError:
            epochs = load_checkpoint(searching.run_dir / run / row / CHECKPOINT)["position"]["epoch"]
            return TrialRecord(slot=slot, point=dict(point), row=row, stopped_after=epochs)
        tasks = tuple(TaskMetric(**task.model_dump()) for task in result.tasks)
        networks.append(_network(searching, result, run, row, seeded))
        is_hopeless = None
    return TrialRecord(slot=slot, point=dict(point), row=row, tasks=tasks, networks=tuple(networks))


def row_name(variant: Recipe) -> str:
    """Returns the name of a network's row: equal recipes have equal names, whatever their seeds."""
    what_counts = variant.model_dump(mode="json", exclude={"seed", "search", "name", "runs_dir", "architectures"})
    return f"gated-{digest({key: value for key, value in what_counts.items() if not key.startswith('sweep')}, 10)}"


def _base(variant: Recipe, recipe: Recipe) -> Recipe:
    """Returns the recipe of a network's baselines: what they do not depend on is as the search's recipe has it.

    So the files of the baselines do not depend on the trial that comes first.
    """
    if variant.gating.branch_epoch != recipe.gating.branch_epoch:
        return variant.model_copy(update={"search": None})
    targets = {task.name: task.target for task in recipe.tasks}
    tasks = tuple(task.model_copy(update={"target": targets[task.name]}) for task in variant.tasks)
    training = variant.training.model_copy(update={"gated": recipe.training.gated})
    kept_parts = {part: getattr(recipe, part) for part in _OF_GATED_NETWORKS}
    return variant.model_copy(update={**kept_parts, "search": None, "tasks": tasks, "training": training})


def _run_name(base: Recipe, recipe: Recipe) -> str:
    """Returns the name of a run's folder: networks with the same baselines lie in one run."""
    of_baselines = _baseline_parts(base)
    as_given = _baseline_parts(recipe.model_copy(update={"seed": base.seed}))
    name = f"seed-{base.seed}"
    return name if of_baselines == as_given else f"{name}-{digest(of_baselines, 6)}"


def _baseline_parts(recipe: Recipe) -> dict[str, Any]:
    """Returns every part of a recipe that its single-task networks or its shared network depend on."""
    parts = recipe.model_dump(mode="json", exclude=set(_OF_GATED_NETWORKS))
    parts = {key: value for key, value in parts.items() if not key.startswith("sweep")}
    parts["tasks"] = [{**task, "target": None} for task in parts["tasks"]]
    del parts["training"]["gated"]
    # The shared network's training keeps a checkpoint of this epoch.
    parts["branch_epoch"] = recipe.gating.branch_epoch
    return parts


def _single_parts(recipe: Recipe) -> dict[str, Any]:
    """Returns every part of a recipe that its single-task networks depend on."""
    parts = _baseline_parts(recipe)
    parts["tasks"] = [{**task, "weight": None} for task in parts["tasks"]]
    del parts["training"]["shared"], parts["training"]["distillation"], parts["branch_epoch"]
    return parts


def _network_trained(
    searching: Searching, base: Recipe, run_dir: Path, row: str, variant: Recipe, is_hopeless: IsHopeless | None
) -> RunResult:
    """Returns the result of a run in which a network and its baselines are trained."""
    _train_baselines(searching, base, run_dir)
    result = load_result(run_dir)
    if row in {trained.name for trained in result.rows}:
        return result

    def waiting(holder: str) -> None:
        searching.say(f"waiting for {run_dir / row}, which {holder} trains")

    watch = None if is_hopeless is None else _watch(result, run_dir, is_hopeless)
    train_beside_others(base, run_dir, row, variant, waiting=waiting, progress=searching.progress, watch=watch)
    return load_result(run_dir)


def _watch(result: RunResult, run_dir: Path, is_hopeless: IsHopeless) -> Callable[[LogRow], bool]:
    """Returns what tells whether a trial is hopeless from the row of an epoch."""
    names = {task.name: f"val/{task.name}" for task in result.tasks}
    separate = {}
    for task, column in names.items():
        separate[task] = load_checkpoint(run_dir / "separate" / task / CHECKPOINT)["position"]["log"][-1][column]

    def watch(row: LogRow) -> bool:
        gains = _gains(result, {task: row[column] for task, column in names.items()}, separate)
        return bool(gains) and is_hopeless(int(row["epoch"]), mean(gains))

    return watch


def _train_baselines(searching: Searching, base: Recipe, run_dir: Path) -> None:
    """Trains a run's single-task networks and its shared network, unless they are trained; one worker does."""
    if _has_baselines(run_dir):
        return

    def waiting(holder: str) -> None:
        searching.say(f"waiting for the baselines in {run_dir.name}, which {holder} trains")

    # Runs that differ in the shared network alone have the same single-task networks: one after another.
    with locked(searching.run_dir / f".baselines-{digest(_single_parts(base), 10)}", waiting=waiting):
        if _has_baselines(run_dir):
            return
        _take_single_networks(searching.run_dir, base, run_dir)
        train_variants(base, run_dir, {}, resume=True, progress=searching.progress)


def _has_baselines(run_dir: Path) -> bool:
    if not is_file(run_dir / RESULT):
        return False
    return {"separate", "shared"} <= {row.name for row in load_result(run_dir).rows}


def _take_single_networks(search_dir: Path, base: Recipe, run_dir: Path) -> None:
    """Links the single-task networks of another run of the search, where they are trained with the same settings."""
    for other in sorted(search_dir.glob(f"seed-{base.seed}*/{RESULT}")):
        trained = load_result(other.parent)
        is_trained = any(row.name == "separate" for row in trained.rows)
        recipe = parse(Recipe, trained.recipe, where=f"{other}: its recipe")
        if not is_trained or _single_parts(recipe) != _single_parts(base):
            continue
        take_networks([f"separate/{task.name}" for task in base.tasks], run_dir, other.parent)
        return


def _network(searching: Searching, result: RunResult, run: str, row: str, recipe: Recipe) -> NetworkRecord:
    rows = {trained.name: trained for trained in result.rows}
    checkpoint = f"{row}/{kept(recipe)}"
    latency_ms = None
    if searching.measure_ms is not None:
        gated, _ = load_gated(searching.run_dir / run / checkpoint)
        latency_ms = searching.measure_ms(prune(gated))
    return NetworkRecord(
        seed=recipe.seed,
        run=run,
        checkpoint=checkpoint,
        gated=_measured(result, rows[row]),
        separate=_measured(result, rows["separate"]),
        shared=_measured(result, rows["shared"]),
        latency_ms=latency_ms,
        gates=rows[row].gates,
    )


def _measured(result: RunResult, row: ResultRow) -> Measured:
    separate = next(other for other in result.rows if other.name == "separate").metrics
    return Measured(
        metrics=row.metrics,
        delta_mtl=row.delta_mtl,
        worst_task=min(_gains(result, row.metrics, separate), default=None),
        macs=row.macs,
        parameters=row.parameters,
    )


def _gains(result: RunResult, metrics: Mapping[str, float], separate: Mapping[str, float]) -> list[float]:
    """Returns every task's relative gain over its single-task network; none where one of these metrics is 0."""
    if not all(separate[task.name] for task in result.tasks):
        return []
    return [
        relative_gain(metrics[task.name], separate[task.name], higher_is_better=task.higher_is_better)
        for task in result.tasks
    ]


def digest(parts: Mapping[str, Any], length: int) -> str:
    """Returns the first characters of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:length]
