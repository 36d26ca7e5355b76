"""Makes a trained gated network safe, round by round.

A round checks every task that still shares on the validation split. Of the tasks that are not shown to be as good as
their single-task networks, the worst takes that network's encoder, if the budget allows it, and the other tasks are
trained on with frozen gates. There are at most T rounds: with all tasks on their own, nothing can be worse.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from gate2static.budget.meter import Meter
from gate2static.data import Splits
from gate2static.errors import CheckpointError, RecipeError
from gate2static.gates import GatedModel
from gate2static.models import MultiTaskNetwork
from gate2static.prune import prune
from gate2static.recipe import BalancingRecipe, Recipe, SafeRecipe
from gate2static.tasks import PairedTest, Task
from gate2static.train.loop import checkpoints, random_state
from gate2static.train.loop.batches import length
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.position import Position
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.loop.resume import check_identity
from gate2static.train.networks import build_untrained, load_gated, single_networks
from gate2static.train.processes.devices import on_first_process
from gate2static.train.safety.comparison import Comparison, Tests
from gate2static.train.safety.opening import open_encoders, part_of, put_back
from gate2static.train.safety.outcome import Safety, SafetyRound

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, kw_only=True)
class SafeRun:
    """A gated network that is made safe.

    Attributes:
        name: The safe network's folder inside the run, such as `gated-0.05-safe`.
        before: The gated network's folder.
        recipe: The gated network's recipe; `safe` says what counts as no worse.
        tasks: The recipe's tasks.
        run_dir: The run's folder, with the trained single-task networks and the gated network.
    """

    name: str
    before: str
    recipe: Recipe
    tasks: tuple[Task, ...]
    run_dir: Path

    @property
    def wanted(self) -> SafeRecipe:
        """What counts as no worse."""
        assert self.recipe.safe is not None
        return self.recipe.safe

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the safe network."""
        return self.run_dir / self.name / checkpoints.FILE

    def identity(self, gated: GatedModel) -> dict[str, Any]:
        """Every part of the recipe that the safe network depends on."""
        run = NetworkRun(
            name=self.name,
            kind="gated",
            model=gated,
            tasks=self.tasks,
            recipe=self.recipe,
            run_dir=self.run_dir,
            sparsity_weight=self.recipe.sparsity_weight,
        )
        return {**run.identity, "safe": self.wanted.model_dump(mode="json")}


def safe_cost(recipe: Recipe, images: int) -> int:
    """Returns the most backbone passes that making one network safe takes, with so many training images."""
    return sum(_round_cost(recipe, sharers, images) for sharers in range(1, len(recipe.tasks)))


def make_safe(run: SafeRun, splits: Splits, *, fabric: "Fabric", go_on: bool, progress: TrainingProgress) -> None:
    """Writes the checkpoint of the safe network that follows from a trained gated network.

    Everything is computed from checkpoints, so an interrupted run goes on as if nothing had happened. In a distributed
    run every process calls this function.

    Args:
        run: The gated network.
        splits: The data; `train` is trained on and `val` decides.
        fabric: The processes and devices, launched.
        go_on: Whether to continue what is in the safe network's folder.
        progress: Shows how far the training is.

    Raises:
        RecipeError: There are fewer than two validation images that count for a task.
        BudgetError: No network meets the budget.
        TrainingError: A loss or weight is no longer finite, or the disk is full.
        CheckpointError: A checkpoint cannot be read or belongs to another recipe.
    """
    gated, _ = load_gated(run.run_dir / run.before / checkpoints.kept(run.recipe))
    left = safe_cost(run.recipe, length(splits.train))
    if go_on and run.checkpoint.exists():
        content = checkpoints.load_checkpoint(run.checkpoint)
        check_identity(content["identity"], run.identity(gated), run.checkpoint)
        progress.skip(cost=left)
        return
    comparison = Comparison(run.run_dir, splits.val, run.tasks, run.recipe, fabric)
    networks = single_networks(run.recipe, run.run_dir)
    limit = run.wanted.budget or run.recipe.budget
    meter = None if limit is None else Meter(gated, limit)
    macs_before = prune(gated).manifest.macs["static"]
    sharing = [task.name for task in run.tasks]
    rounds: list[SafetyRound] = []
    stopped: Literal["safe", "budget", "rounds"] | None = None
    while stopped is None:
        tests = tests_of(run, comparison, gated, sharing)
        worse = not_shown(run, tests)
        may_change = run.wanted.rounds is None or len(rounds) < run.wanted.rounds
        opened = _open(gated, networks, worse, meter) if may_change else None
        rounds.append(SafetyRound(tests=tests, worse=worse, opened=opened))
        sharing = [task for task in sharing if task != opened]
        if opened is None:
            stopped = "safe" if not worse else "budget" if may_change else "rounds"
        elif not sharing:
            stopped = "safe"
        else:
            _train_on(run, gated, sharing, len(rounds), splits, fabric=fabric, go_on=go_on, progress=progress)
            left -= _round_cost(run.recipe, len(sharing), length(splits.train))
    safety = Safety(
        margin=run.wanted.margin,
        significance=run.wanted.significance,
        metrics=run.wanted.metrics,
        epochs=_epochs(run.recipe),
        rounds=tuple(rounds),
        stopped=stopped,
        macs_before=macs_before,
        macs_after=prune(gated).manifest.macs["static"],
    )
    random_state.seed_everything(run.recipe.seed + fabric.global_rank)
    content = {
        "kind": "gated",
        "identity": run.identity(gated),
        "recipe": run.recipe.model_dump(mode="json"),
        "model": gated.state_dict(),
        "optimisers": {},
        **random_state.gather(),
        "position": {**asdict(Position()), "safety": safety.model_dump(mode="json")},
    }
    on_first_process(fabric, partial(checkpoints.save_checkpoint, run.checkpoint, content))
    progress.skip(cost=left)


def read_safety(path: Path) -> Safety:
    """Returns what the checkpoint of a safe network says about its making.

    Raises:
        CheckpointError: The file cannot be read, or is of another network.
    """
    try:
        return Safety.model_validate(checkpoints.load_checkpoint(path)["position"].get("safety"), strict=False)
    except ValidationError:
        raise CheckpointError(f"{path}: damaged: its record of safety does not fit; use another copy") from None


def tests_of(run: SafeRun, comparison: Comparison, gated: GatedModel, sharing: Sequence[str]) -> Tests:
    """Returns the tests of the tasks that share, on the validation split."""
    _, measured = comparison.measure(prune(gated))
    for task in sharing:
        if len(measured[task].blocks) < 2:
            raise RecipeError(
                f"safe: the validation split has fewer than two images that count for {task}, and nothing is shown by "
                "one; give more validation images, or remove safe"
            )
    tests = comparison.tests(measured, margin=run.wanted.margin)
    return {task: tests[task] for task in sharing}


def not_shown(run: SafeRun, tests: Tests) -> tuple[str, ...]:
    """Returns the tasks that are not shown to be safe, the largest loss first."""
    losses = {}
    for task in run.tasks:
        if task.name not in tests:
            continue  # it has its own encoder
        of_task = tests[task.name]
        # Without a test of the main metric, which is 0 with the single-task network, nothing is shown.
        main = task.kind.metric_name
        passes = (_passes(test, run.wanted, is_main=name == main) for name, test in of_task.items())
        if main not in of_task or not all(passes):
            losses[task.name] = min((test.gain for test in of_task.values()), default=0.0)
    return tuple(sorted(losses, key=losses.__getitem__))


def _passes(test: PairedTest, wanted: SafeRecipe, *, is_main: bool) -> bool:
    """Returns whether a metric is shown to be safe, or, if that is not asked for, is so on the validation split."""
    if is_main or wanted.metrics == "all":
        return test.p_value < wanted.significance
    return test.gain >= -wanted.margin


def _open(
    gated: GatedModel, networks: Mapping[str, MultiTaskNetwork], worse: Sequence[str], meter: Meter | None
) -> str | None:
    """Gives the worst task with which the network then still fits the budget its own encoder, and returns its name.

    One per round: without that task in the shared stream, the others may do better.
    """
    for task in worse:
        before = {key: value.clone() for key, value in gated.state_dict().items()}
        open_encoders(gated, {task: networks[task]})
        if meter is None or meter.fits(meter.measure(gated)):
            return task
        gated.load_state_dict(before)
    return None


def _train_on(
    run: SafeRun,
    gated: GatedModel,
    sharing: Sequence[str],
    number: int,
    splits: Splits,
    *,
    fabric: "Fabric",
    go_on: bool,
    progress: TrainingProgress,
) -> None:
    """Trains the network of the tasks that share, and puts it back into the whole one."""
    recipe = _recipe_of_round(run, sharing)
    rows = [gated.tasks.index(task) for task in sharing]
    part = build_untrained(recipe)
    part.load_state_dict(part_of(gated.state_dict(), part.state_dict(), rows))
    network = NetworkRun(
        name=f"{run.name}/round-{number}",
        kind="gated",
        model=part,
        tasks=tuple(task for task in run.tasks if task.name in sharing),
        recipe=recipe,
        run_dir=run.run_dir,
        teachers=single_networks(recipe, run.run_dir) if recipe.training.distillation > 0 else {},
    )
    train_network(network, splits, fabric=fabric, go_on=go_on, progress=progress)
    trained, _ = load_gated(run.run_dir / network.name / checkpoints.kept(recipe))
    put_back(gated, trained.state_dict(), rows)


def _recipe_of_round(run: SafeRun, sharing: Sequence[str]) -> Recipe:
    """Returns the recipe of the tasks that share, whose gates are frozen as they are."""
    recipe = run.recipe
    update: dict[str, Any] = {"epochs": _epochs(recipe), "freeze_at": 0.0, "settle_steps": None, "patience": None}
    of_training: dict[str, Any] = {"compile": False}  # settled gates change the network that trains
    if len(sharing) == 1:
        # A task alone has nothing to be balanced against, and no conflict.
        update["balancing"] = BalancingRecipe()
        of_training["conflict_steps"] = None
    gated = recipe.training.gated.model_copy(update=update)
    kept_gates = {"decisions": "modules", "private": {}, "prefix": False, "branch_epoch": None}
    return recipe.model_copy(
        update={
            "tasks": tuple(task for task in recipe.tasks if task.name in sharing),
            "gating": recipe.gating.model_copy(update=kept_gates),
            "training": recipe.training.model_copy(update={"gated": gated, **of_training}),
            "budget": None,
            "safe": None,
            "sweep": (recipe.sparsity_weight,),
            "sweep_targets": (),
            "sweep_budgets": (),
            "sweep_balancing": (),
            "architectures": (),
        }
    )


def _epochs(recipe: Recipe) -> int:
    """Returns for how many epochs the tasks that still share are trained on behind a change."""
    assert recipe.safe is not None
    return recipe.safe.epochs or recipe.training.gated.epochs


def _round_cost(recipe: Recipe, sharers: int, images: int) -> int:
    """Returns the backbone passes of a round in which so many tasks share."""
    return (sharers + 1) * _epochs(recipe) * math.ceil(images / recipe.training.gated.batch_size)
