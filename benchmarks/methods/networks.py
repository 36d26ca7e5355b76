"""The networks of the benchmark, and the training of one of them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from gate2static.balance import METHODS
from gate2static.data import Splits
from gate2static.errors import TrainingError
from gate2static.recipe import BalancingRecipe, Recipe
from gate2static.tasks import Task
from gate2static.train import evaluate
from gate2static.train.loop.batches import evaluation_loader, loaded
from gate2static.train.loop.log import CONFLICT_FILE
from gate2static.train.loop.log import FILE as LOG_FILE
from gate2static.train.loop.loop import train_network
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.networks import build_shared, build_single

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SEPARATE = "separate"
PLAIN = "sum"
CONTROL = "sum, T × rate"
CLAIMED = ("graddrop", "cosreg")
"""The methods that Robust Analysis calls the best ones."""
OF_PAPER = (
    "sum", "mean", *CLAIMED, "pcgrad", "mgda", "cagrad", "gradvac", "imtl", "aligned", "nash", "rgw", "rlw", "dwa",
    "uncertainty", "gradnorm", "famo",
)  # fmt: skip
"""The methods of Robust Analysis."""
SAME_AT_ANY_SCALE = ("sum", "mean", "dwa", "gradnorm", "cosreg")
"""Methods for which `scale: sum` changes nothing: their weights add up to T; that of the mean is then the sum."""
MEASURES = ("gds", "gms", "fd")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trained network, or the separate networks of a seed.

    Attributes:
        name: The method's label, as of `BalancingRecipe.label`; `separate` for the separate networks.
        seed: The seed of its training.
        metrics: Task -> metric -> value on the test images; empty where the training failed.
        steps: The steps in which conflict was measured.
        curves: Measure of conflict -> its value in each of these steps.
        scale: The mean length of the direction over that of plain training, or the mean weight of the losses.
        failed: Why the training ended; empty where it did not fail.
    """

    name: str
    seed: int
    metrics: dict[str, dict[str, float]]
    steps: list[int]
    curves: dict[str, list[float]]
    scale: float | None
    failed: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all that is measured today is there; what an older version left out is trained again."""
        return bool(self.failed) or self.name == SEPARATE or all(measure in self.curves for measure in MEASURES)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network of the benchmark.

    Attributes:
        name: Its name in tables, and its folder.
        balancing: The method that it is trained with.
        rate: What the recipe's learning rate is multiplied by.
    """

    name: str
    balancing: BalancingRecipe
    rate: float = 1.0

    def recipe(self, recipe: Recipe, seed: int) -> Recipe:
        """Returns the recipe of this network."""
        shared = recipe.training.shared
        weights = shared.weights.model_copy(update={"lr": self.rate * shared.weights.lr})
        shared = shared.model_copy(update={"balancing": self.balancing, "weights": weights})
        training = recipe.training.model_copy(update={"shared": shared, "single": recipe.training.shared})
        return recipe.model_copy(update={"training": training, "seed": seed})


def candidates(tasks: int) -> Iterator[Candidate]:
    """Yields every method in every setting, the paper's first: at parameters, then at features; own scale, then equal.

    Plain training at T times the learning rate is the control: a method that owes its gain to its scale is no better.

    Args:
        tasks: The number of tasks, T.
    """
    yield Candidate(name=PLAIN, balancing=BalancingRecipe())
    yield Candidate(name="mean", balancing=BalancingRecipe(method="mean"))
    yield Candidate(name=CONTROL, balancing=BalancingRecipe(), rate=tasks)
    rest = [name for name in OF_PAPER if name not in CLAIMED]
    others = [name for name in METHODS if name not in OF_PAPER]
    paper_first = [(names, features) for features in (False, True) for names in (CLAIMED, rest)]
    settings = [*paper_first, (others, False), (others, True)]
    for (names, features), equal in product(settings, (False, True)):
        for name in names:
            if name in (PLAIN, "mean") or (features and "features" not in METHODS[name].levels):
                continue
            if equal and name in SAME_AT_ANY_SCALE:
                continue
            at = "features" if features else None
            balancing = BalancingRecipe(method=name, at=at, scale="sum" if equal else None)
            yield Candidate(name=balancing.label, balancing=balancing)


def train_method(
    recipe: Recipe,
    candidate: Candidate,
    seed: int,
    tasks: tuple[Task, ...],
    splits: Splits,
    folder: Path,
    fabric: "Fabric",
) -> Result:
    """Trains the shared network with one method, and measures it.

    Args:
        recipe: The recipe of the benchmark.
        candidate: The network.
        seed: The seed of the training.
        tasks: The recipe's tasks.
        splits: The recipe's data.
        folder: Where the logs stay; checkpoints are removed once the network is measured.
        fabric: The process, launched.
    """
    changed = candidate.recipe(recipe, seed)
    name = candidate.name
    run = NetworkRun(name=name, kind="shared", model=build_shared(changed), tasks=tasks, recipe=changed, run_dir=folder)
    failed = ""
    metrics = {}
    try:
        metrics = _train(run, splits, fabric)
    except TrainingError as error:
        failed = str(error).partition(";")[0]
    rows = _rows(folder / name / CONFLICT_FILE)
    log = _rows(folder / name / LOG_FILE)
    _forget(folder / name)
    return Result(
        name=name,
        seed=seed,
        metrics=metrics,
        steps=[int(row["step"]) for row in rows],
        curves={measure: [float(f"{row[measure]:.6g}") for row in rows] for measure in MEASURES},
        scale=mean(row["scale"] for row in log) if log and "scale" in log[0] else None,
        failed=failed,
    )


def train_separate(
    recipe: Recipe, seed: int, tasks: tuple[Task, ...], splits: Splits, folder: Path, fabric: "Fabric"
) -> Result:
    """Trains one network per task with the shared network's settings, as the baseline of Δ_MTL."""
    changed = Candidate(name=PLAIN, balancing=BalancingRecipe()).recipe(recipe, seed)
    metrics = {}
    for task in tasks:
        run = NetworkRun(
            name=f"{SEPARATE}/{task.name}",
            kind="single",
            model=build_single(changed, task.name),
            tasks=(task,),
            recipe=changed,
            run_dir=folder,
        )
        metrics |= _train(run, splits, fabric)
        _forget(folder / SEPARATE / task.name)
    return Result(name=SEPARATE, seed=seed, metrics=metrics, steps=[], curves={}, scale=None)


def _train(run: NetworkRun, splits: Splits, fabric: "Fabric") -> dict[str, dict[str, float]]:
    with TrainingProgress(enabled=False, total_cost=1) as progress:
        train_network(run, splits, fabric=fabric, go_on=True, progress=progress)
    loader = evaluation_loader(splits.test, run.settings.batch_size)
    return evaluate(run.model, loaded(loader), run.tasks)


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _forget(folder: Path) -> None:
    """Removes a network's checkpoints: hundreds of them would fill the disk."""
    for path in folder.glob("*.pt"):
        path.unlink()
