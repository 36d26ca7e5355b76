"""A whole run: the single-task networks, the shared network and one gated network per sparsity weight."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gate2static import plugins
from gate2static.architectures.smtl import SMTL
from gate2static.budget import check_budget
from gate2static.data import Splits, describe_data, load_data
from gate2static.errors import RecipeError, TrainingError
from gate2static.recipe import ArchitectureRecipe, NetworkRecipe, Recipe
from gate2static.tasks import Task, build_tasks
from gate2static.train.architectures.branching import check_tree_search
from gate2static.train.loop.balanced import check_recipe
from gate2static.train.loop.baselines import check_baselines, take_baselines
from gate2static.train.loop.batches import length
from gate2static.train.loop.checkpoints import FILE as CHECKPOINT
from gate2static.train.loop.loggers import check_loggers
from gate2static.train.loop.loop import Watch
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.networks import (
    build_architecture,
    build_untrained,
)
from gate2static.train.processes.devices import launch, on_first_process, start_fabric, starts_the_run
from gate2static.train.processes.memory import keep_freed_memory
from gate2static.train.results import FILE as RESULT
from gate2static.train.results import ResultRow, RunResult, TaskInfo, load_result
from gate2static.train.rows import Rows
from gate2static.train.run_lock import locked
from gate2static.train.safety.rounds import safe_cost
from gate2static.train.variants import gated_name, gated_variants, is_shared, safe_rows, shared_variants

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    recipe: Recipe, run_dir: str | Path, *, resume: bool = False, progress: bool = True, baselines: Path | None = None
) -> RunResult:
    """Trains the single-task networks, the shared network and one gated network with λ_s = `recipe.sparsity_weight`.

    With a budget, λ_s starts at that weight and is steered, and the gated network finally costs at most the budget.

    Args:
        recipe: The networks, tasks, data and settings of the run.
        run_dir: The folder for checkpoints, logs and `run.json` (docs/design.md, "A run folder").
        resume: Whether to continue the run in the folder. On the CPU the result then equals, bit for bit, that of an
            uninterrupted run.
        progress: Whether to show progress bars on stderr.
        baselines: The folder of another run whose separate and shared networks are taken instead of trained.

    Returns:
        The content of `run.json`: one row for the single-task networks, one for the shared network and one for the
        gated network.

    Raises:
        RecipeError: The recipe has a name or option that does not exist.
        BudgetError: No setting of the gates meets the budget; nothing is trained then.
        TrainingError: A loss is no longer finite, the disk is full, the folder already holds a run, or another process
            trains in it.
        CheckpointError: The run to continue is damaged or belongs to another recipe, or the baselines do.
    """
    if recipe.gating.decisions in ("saliency", "random") and recipe.budget is None:
        raise RecipeError("gates that are not learned need a budget, such as budget: {macs: 0.6}; or use `sweep`")
    variants = {gated_name(recipe): recipe}
    return train_variants(recipe, run_dir, variants, resume=resume, progress=progress, baselines=baselines)


def sweep(
    recipe: Recipe, run_dir: str | Path, *, resume: bool = False, progress: bool = True, baselines: Path | None = None
) -> RunResult:
    """Trains the two baselines once, and one gated network per sparsity weight λ_s in `recipe.sweep`.

    With `recipe.sweep_targets` there is one gated network per λ_s and combination of these τ, named after all of them;
    with `recipe.sweep_budgets` one per budget instead. Shared networks with other methods (`recipe.sweep_balancing`)
    and other architectures (`recipe.architectures`) come before the gated networks and behind them.
    `run.json` is written after every row, so an interrupted sweep can be resumed.

    Args:
        recipe: The networks, tasks, data and settings of the run.
        run_dir: The folder for checkpoints, logs and `run.json` (docs/design.md, "A run folder").
        resume: Whether to continue the run in the folder, as for `train`.
        progress: Whether to show progress bars on stderr.
        baselines: The folder of another run whose separate and shared networks are taken instead of trained.

    Returns:
        The content of `run.json`: one row per network, the single-task networks together being one row.

    Raises:
        RecipeError: The recipe has a name or option that does not exist, values of λ_s with a budget, which steers λ_s
            itself, or with gates that are not learned, or architectures with a method.
        TrainingError: A loss is no longer finite, the disk is full, the folder already holds a run, or another process
            trains in it.
        CheckpointError: The run to continue is damaged or belongs to another recipe, or the baselines do.
    """
    if recipe.budget is not None and recipe.sweep and not recipe.sweep_budgets:
        others = recipe.architectures or recipe.sweep_balancing
        raise RecipeError(
            "a budget steers λ_s, so there is nothing to sweep; use `train`, or give sweep_budgets"
            + (", or set sweep: [] to train without gated networks" if others else "")
        )
    if recipe.gating.decisions != "learned" and recipe.sweep and not recipe.sweep_budgets:
        raise RecipeError(
            f"gating.decisions is {recipe.gating.decisions}, so λ_s decides nothing; give sweep_budgets, or use `train`"
        )
    variants = {**shared_variants(recipe), **gated_variants(recipe)}
    return train_variants(
        recipe, run_dir, variants, recipe.architectures, resume=resume, progress=progress, baselines=baselines
    )


def train_variants(
    recipe: Recipe,
    run_dir: str | Path,
    variants: dict[str, Recipe],
    architectures: Sequence[ArchitectureRecipe] = (),
    *,
    resume: bool = False,
    progress: bool = True,
    baselines: Path | None = None,
) -> RunResult:
    """Trains the two baselines of a recipe, and one network per variant of it and per architecture.

    Args:
        recipe: The recipe of the baselines.
        run_dir: The folder for checkpoints, logs and `run.json`.
        variants: The name of a row -> its recipe. A name that starts with `shared-` is that of a shared network, whose
            recipe may differ in `training.shared.balancing`; other names are those of gated networks, which may differ
            in gating, in the gated training and in their budgets.
        architectures: The architectures; their rows have their labels.
        resume: Whether to continue the run in the folder, as for `train`.
        progress: Whether to show progress bars on stderr.
        baselines: The folder of another run whose separate and shared networks are taken instead of trained.

    Raises:
        Gate2StaticError: As for `train`.
    """
    run_dir = Path(run_dir)
    # Who trains a recipe passed it, and with it the names of code in it.
    plugins.allow(recipe.code_names)
    fabric = _checked(recipe, {"shared": recipe, **variants})
    if recipe.safe is not None:
        _check_safe(recipe, variants, architectures)
    if architectures and not recipe.training.shared.balancing.is_plain:
        raise RecipeError(
            "training.shared.balancing: methods train shared and gated networks only, and architectures would train "
            "without; remove one of the two, or give the method in sweep_balancing"
        )
    for wanted in architectures:
        network = build_architecture(recipe, wanted)
        if isinstance(network, SMTL) and network.held_out and recipe.training.precision != "32-true":
            raise RecipeError(
                f"training.precision: {wanted.label} takes gradients on held-out images that mixed precision has not; "
                "use 32-true, or leave out held_out"
            )
        check_tree_search(recipe, wanted)
    if baselines is not None:
        check_baselines(recipe, baselines)
    by_label = {wanted.label: wanted for wanted in architectures}
    rows = {"separate": recipe, "shared": recipe, **variants, **dict.fromkeys(by_label, recipe)}
    # The lock is this process's alone; further processes of the run are its children.
    with locked(run_dir) if starts_the_run() else nullcontext():
        launch(fabric, _run_in_process, recipe, run_dir, rows, by_label, resume, progress, baselines)
    return load_result(run_dir)


def train_beside_others(
    recipe: Recipe,
    run_dir: Path,
    name: str,
    variant: Recipe,
    *,
    waiting: Callable[[str], None],
    progress: bool = True,
    watch: Watch | None = None,
) -> ResultRow:
    """Trains one more gated network of a run whose baselines are trained, or goes on with it.

    Only the network's own folder is locked, so that several processes can train networks of one run.

    Args:
        recipe: The recipe of the baselines.
        run_dir: The run's folder.
        name: The name of the network's row.
        variant: The network's recipe, which may differ from `recipe` as for `train_variants`.
        waiting: Is called where another process trains this network, and is waited for.
        progress: Whether to show progress bars on stderr.
        watch: May stop the network's training, as for `train_network`.

    Returns:
        The network's row.

    Raises:
        StoppedError: `watch` stopped the training.
        Gate2StaticError: As for `train`.
    """
    plugins.allow(variant.code_names)
    fabric = _checked(recipe, {name: variant})
    with locked(run_dir / name, waiting=waiting):
        launch(fabric, _run_in_process, recipe, run_dir, {name: variant}, {}, True, progress, None, watch)
    return next(row for row in load_result(run_dir).rows if row.name == name)


def _checked(recipe: Recipe, variants: dict[str, Recipe]) -> "Fabric":
    """Finds errors of recipes, and missing libraries, before any process is started; returns the processes."""
    check_loggers(recipe.training)
    build_tasks(recipe.tasks, describe_data(recipe.data))
    fabric = start_fabric(recipe)
    for name, variant in variants.items():
        check_recipe(variant, processes=fabric.world_size)
        if variant.budget is not None and not is_shared(name):
            check_budget(build_untrained(variant), variant.budget)
    return fabric


def _run_in_process(
    fabric: "Fabric",
    recipe: Recipe,
    run_dir: Path,
    recipes: dict[str, Recipe],
    architectures: dict[str, ArchitectureRecipe],
    resume: bool,
    show: bool,
    baselines: Path | None = None,
    watch: Watch | None = None,
) -> None:
    """Runs the part of a run that every training process has."""
    # Arguments are pickled for other processes, so each process loads data and builds networks itself.
    for of_row in (recipe, *recipes.values()):
        plugins.allow(of_row.code_names)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    result = _open_result(recipe, run_dir, tasks, resume=resume)
    splits = load_data(recipe.data, [task.name for task in tasks])
    _check_selection(recipe, splits)
    fabric.barrier()  # no process writes before all have read the folder
    if baselines is not None:
        on_first_process(fabric, partial(take_baselines, recipe, run_dir, baselines))
    safe = safe_rows({name: variant for name, variant in recipes.items() if name != "separate"})
    recipes = _with_safe(recipes, safe)
    total_cost = _total_cost(recipe, length(splits.train), recipes.keys() - safe.keys(), architectures)
    trained_on = [name for name, before in safe.items() if before not in architectures]
    total_cost += sum(safe_cost(recipes[name], length(splits.train)) for name in trained_on)
    with TrainingProgress(enabled=show and fabric.is_global_zero, total_cost=total_cost) as progress:
        rows = Rows(
            recipe=recipe,
            run_dir=run_dir,
            tasks=tasks,
            splits=splits,
            fabric=fabric,
            # Networks that were taken are gone on with, which only measures those that are complete.
            resume=resume or baselines is not None,
            progress=progress,
            watch=watch,
        )
        for name, variant in recipes.items():
            if name in safe:
                before = safe[name]
                row = rows.make_safe(name, variant, before=before, is_architecture=before in architectures)
            else:
                row = rows.train(name, variant, architectures.get(name))
            if any(measured.name == name for measured in result.rows):
                continue  # measured before an interruption
            result = rows.measure(row, result)
            on_first_process(fabric, partial(_save, result, run_dir, beside_others="separate" not in recipes))


def _save(result: RunResult, run_dir: Path, *, beside_others: bool) -> None:
    """Writes `run.json`; beside others, only the last row is added to what they have written meanwhile."""
    if not beside_others:
        result.save(run_dir)
        return
    with locked(run_dir, waiting=lambda holder: None):
        load_result(run_dir).with_row(result.rows[-1]).save(run_dir)


def _check_safe(recipe: Recipe, variants: dict[str, Recipe], architectures: Sequence[ArchitectureRecipe]) -> None:
    """Raises where there is nothing to make safe, or no network meets the budget of safe ones."""
    if not architectures and not safe_rows(variants):
        raise RecipeError(
            "safe: gives tasks of gated networks and architectures their own encoders, and none is trained; give a "
            "value in sweep, sweep_budgets or architectures, or remove safe"
        )
    assert recipe.safe is not None
    budget = recipe.safe.budget
    if budget is None:
        return
    if architectures and isinstance(budget.macs, dict):
        raise RecipeError("safe.budget.macs: limits by task are for gated networks; give one number for architectures")
    check_budget(build_untrained(recipe), budget)


def _with_safe(variants: dict[str, Recipe], safe: dict[str, str]) -> dict[str, Recipe]:
    """Returns the recipes of rows by name, that of a safe network right behind the gated one that it is made of."""
    of_gated = {before: name for name, before in safe.items()}
    recipes = {}
    for name, variant in variants.items():
        recipes[name] = variant
        if name in of_gated:
            recipes[of_gated[name]] = variant
    return recipes


def _check_selection(recipe: Recipe, splits: Splits) -> None:
    """Raises a RecipeError where epochs would be selected on the images that the result is measured on."""
    training = recipe.training
    stops_early = any(settings.patience for settings in (training.single, training.shared, training.gated))
    selects = training.keep == "best" or stops_early
    if recipe.safe is not None and splits.val is splits.test:
        raise RecipeError(
            "safe: the data set comes without validation images, so tasks would be checked on the test images; set "
            "data.options.val_images, or remove safe"
        )
    if selects and splits.val is splits.test:
        raise RecipeError(
            "training.keep and patience: the data set comes without validation images, so they would select on the "
            "test images; set data.options.val_images, or leave them out"
        )


def _open_result(recipe: Recipe, run_dir: Path, tasks: tuple[Task, ...], *, resume: bool) -> RunResult:
    """Returns the run's result so far, without rows for a new run."""
    if not resume and any(run_dir.rglob(CHECKPOINT)):
        raise TrainingError(f"{run_dir} already holds a run; continue with --resume, or choose another folder")
    saved = load_result(run_dir) if resume and (run_dir / RESULT).exists() else None
    rows = saved.rows if saved else ()
    keep = saved.recipe.get("training", {}).get("keep", "last") if saved else recipe.training.keep
    if rows and keep != recipe.training.keep:
        raise TrainingError(
            f"{run_dir}: its rows are of the {keep} checkpoints, training.keep is {recipe.training.keep}; resume with "
            f"training.keep={keep}, or start in another folder"
        )
    infos = tuple(
        TaskInfo(name=task.name, metric=task.kind.metric_name, higher_is_better=task.kind.higher_is_better)
        for task in tasks
    )
    return RunResult(recipe=recipe.model_dump(mode="json"), tasks=infos, rows=rows)


def _total_cost(recipe: Recipe, images: int, rows: Iterable[str], architectures: Collection[str]) -> int:
    """Returns the backbone passes of a whole run with so many training images and these rows."""
    streams = len(recipe.tasks) + 1
    training = recipe.training
    networks: list[tuple[int, NetworkRecipe]] = []
    for name in rows:
        if name == "separate":
            networks += [(1, training.single)] * len(recipe.tasks)
        elif name in architectures:
            networks.append((streams, training.shared))
        else:
            networks.append((1, training.shared) if is_shared(name) else (streams, training.gated))
    return sum(cost * settings.epochs * math.ceil(images / settings.batch_size) for cost, settings in networks)
