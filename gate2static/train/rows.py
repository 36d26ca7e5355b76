"""The rows of a run, one after another: the training of a row's networks, and their measurement."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from gate2static.budget import BudgetReport
from gate2static.data import Splits, describe_data
from gate2static.errors import TrainingError
from gate2static.gates import GatedModel
from gate2static.recipe import ArchitectureRecipe, Recipe
from gate2static.tasks import Task, build_tasks
from gate2static.train.architectures.branching import with_tree
from gate2static.train.architectures.retraining import with_policies
from gate2static.train.deciding import decide_gates
from gate2static.train.loop.checkpoints import FILE as CHECKPOINT
from gate2static.train.loop.checkpoints import kept, load_checkpoint
from gate2static.train.loop.loop import Watch, train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.networks import (
    build_architecture,
    build_gated,
    build_shared,
    build_single,
    gated_baseline,
    load_gated,
    single_networks,
)
from gate2static.train.processes.devices import on_first_process
from gate2static.train.result_row import add_row
from gate2static.train.results import RunResult
from gate2static.train.safety.architectures import make_architecture_safe
from gate2static.train.safety.comparison import Comparison
from gate2static.train.safety.outcome import Safety
from gate2static.train.safety.rounds import SafeRun, make_safe, read_safety
from gate2static.train.sample_predictions import write_predictions
from gate2static.train.variants import is_shared

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, kw_only=True)
class TrainedRow:
    """A row whose networks are trained.

    Attributes:
        name: The row's name.
        recipe: The row's recipe.
        checkpoints: The networks' checkpoints, relative to the run's folder.
        gated: The folder of the gated network that λ_s and a budget belong to; None for other rows.
        is_architecture: Whether the network is of another architecture.
        safety: How the network was made safe; None for others.
    """

    name: str
    recipe: Recipe
    checkpoints: tuple[str, ...]
    gated: str | None = None
    is_architecture: bool = False
    safety: Safety | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the rows of a run have in common, in one training process.

    Attributes:
        recipe: The recipe of the baselines.
        run_dir: The run's folder.
        tasks: The tasks of the recipe.
        splits: The data.
        fabric: The processes and devices, launched.
        resume: Whether to continue what is in the folder.
        progress: Shows how far the training is.
        watch: May stop the training of a network; None lets all be.
    """

    recipe: Recipe
    run_dir: Path
    tasks: tuple[Task, ...]
    splits: Splits
    fabric: "Fabric"
    resume: bool
    progress: TrainingProgress
    watch: Watch | None = None

    def train(self, name: str, recipe: Recipe, wanted: ArchitectureRecipe | None) -> TrainedRow:
        """Trains the networks of a row, or goes on with them.

        Args:
            name: The row's name.
            recipe: The row's recipe.
            wanted: The architecture; None for other rows.

        Raises:
            Gate2StaticError: As for `train_network`.
        """
        if wanted is not None:
            on_first_process(self.fabric, partial(_make_folder, self.run_dir))
            wanted = with_tree(wanted, self.recipe, self.run_dir, self.tasks, self.splits, fabric=self.fabric)
            wanted = with_policies(wanted, self.recipe, self.run_dir)
        checkpoints = []
        for network in _network_runs(name, recipe, self.run_dir, wanted):
            on_first_process(self.fabric, partial(_make_folder, self.run_dir))
            if isinstance(network.model, GatedModel) and not network.checkpoint.exists():
                decide_gates(
                    network.model, recipe, self.run_dir, self.tasks, self.splits, device=self.fabric.device
                )
            train_network(
                network,
                self.splits,
                fabric=self.fabric,
                go_on=self.resume,
                progress=self.progress,
                watch=self.watch,
            )
            checkpoints.append(f"{network.name}/{kept(self.recipe)}")
        is_gated = wanted is None and name != "separate" and not is_shared(name)
        return TrainedRow(
            name=name,
            recipe=recipe,
            checkpoints=tuple(checkpoints),
            gated=name if is_gated else None,
            is_architecture=wanted is not None,
        )

    def make_safe(self, name: str, recipe: Recipe, *, before: str, is_architecture: bool) -> TrainedRow:
        """Makes a trained gated network or architecture safe, or goes on with that.

        Args:
            name: The name of the safe network's row.
            recipe: The network's recipe.
            before: The network's folder.
            is_architecture: Whether it is an architecture.

        Raises:
            Gate2StaticError: As for `safety.rounds.make_safe`.
        """
        run = SafeRun(name=name, before=before, recipe=recipe, tasks=self.tasks, run_dir=self.run_dir)
        if is_architecture:
            make_architecture_safe(run, self.splits, fabric=self.fabric, go_on=self.resume)
        else:
            make_safe(run, self.splits, fabric=self.fabric, go_on=self.resume, progress=self.progress)
        return TrainedRow(
            name=name,
            recipe=recipe,
            checkpoints=(f"{name}/{CHECKPOINT}",),
            gated=None if is_architecture else before,
            is_architecture=is_architecture,
            safety=read_safety(run.checkpoint),
        )

    def measure(self, row: TrainedRow, result: RunResult) -> RunResult:
        """Measures a trained row on the test split, and returns the result with that row."""
        sparsity_weight, budget = _outcome(row.recipe, self.run_dir / row.gated) if row.gated else (None, None)
        network = self._network(row)
        folder = self.run_dir / row.name
        on_first_process(self.fabric, partial(write_predictions, folder, network, self.splits.test, self.tasks))
        return add_row(
            result,
            network,
            name=row.name,
            checkpoints=row.checkpoints,
            recipe=self.recipe,
            tasks=self.tasks,
            comparison=self._on_test,
            sparsity_weight=sparsity_weight,
            # A safe network may cost more than the gated one that it was made of.
            budget=budget if row.safety is None else None,
            is_architecture=row.is_architecture,
            safety=row.safety,
        )

    @cached_property
    def _on_test(self) -> Comparison:
        """Compares networks with the single-task networks, which it measures once."""
        return Comparison(self.run_dir, self.splits.test, self.tasks, self.recipe, self.fabric)

    def _network(self, row: TrainedRow) -> GatedModel:
        """Loads the network of a row from its checkpoints, as a gated network."""
        if row.name == "separate":
            return gated_baseline(self.run_dir, "separate")
        if row.name == "shared":
            return gated_baseline(self.run_dir, "shared")
        return load_gated(self.run_dir / row.checkpoints[0])[0]


def _make_folder(run_dir: Path) -> None:
    """Creates the run's folder before training, so that a permission error does not come after an epoch."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot write {run_dir}: {error.strerror}; choose another folder") from error


def _network_runs(name: str, recipe: Recipe, run_dir: Path, wanted: ArchitectureRecipe | None) -> Iterator[NetworkRun]:
    """Yields the networks of a row, built one by one, because a gated network starts from trained baselines."""
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    teaches = name != "separate" and recipe.training.distillation > 0
    teachers = single_networks(recipe, run_dir) if teaches else {}
    if name == "separate":
        for task in tasks:
            model = build_single(recipe, task.name)
            folder = f"{name}/{task.name}"
            yield NetworkRun(name=folder, kind="single", model=model, tasks=(task,), recipe=recipe, run_dir=run_dir)
    elif wanted is not None:
        yield NetworkRun(
            name=name,
            kind="architecture",
            model=build_architecture(recipe, wanted),
            tasks=tasks,
            recipe=recipe,
            run_dir=run_dir,
            teachers=teachers,
            architecture=wanted,
        )
    elif is_shared(name):
        model = build_shared(recipe)
        yield NetworkRun(
            name=name, kind="shared", model=model, tasks=tasks, recipe=recipe, run_dir=run_dir, teachers=teachers
        )
    else:
        gated = build_gated(recipe, run_dir)
        yield NetworkRun(
            name=name,
            kind="gated",
            model=gated,
            tasks=tasks,
            recipe=recipe,
            run_dir=run_dir,
            sparsity_weight=recipe.sparsity_weight,
            teachers=teachers,
        )


def _outcome(recipe: Recipe, folder: Path) -> tuple[float | None, BudgetReport | None]:
    """Returns λ_s at the end of a gated network's training, if gates were learned, and the projection's report."""
    position = load_checkpoint(folder / CHECKPOINT)["position"]
    weight = position["log"][-1].get("lambda", recipe.sparsity_weight)
    report = position["budget"].get("report")
    return (
        weight if recipe.gating.decisions == "learned" else None,
        None if report is None else BudgetReport.model_validate(report),
    )
