"""The file `run.json`: the networks of a run, with the metrics and the cost of each."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gate2static.budget import BudgetReport
from gate2static.errors import CheckpointError, RecipeError
from gate2static.files import is_file
from gate2static.recipe import Recipe, parse
from gate2static.strict_json import PathInRun, RowName, first_problem, read_json
from gate2static.tasks import PairedTest
from gate2static.train.atomic import write_atomically
from gate2static.train.safety.outcome import Safety

FILE = "run.json"
Size = Annotated[int, Field(ge=0, lt=2**63)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskInfo(_Frozen):
    """The meaning of a task's numbers.

    Attributes:
        name: The task's name.
        metric: The main metric's name.
        higher_is_better: Whether a higher value of the main metric is better.
    """

    name: RowName
    metric: str
    higher_is_better: bool


class ResultRow(_Frozen):
    """One network of a run, or the set of single-task networks.

    Attributes:
        name: `separate`, `shared`, or the network's folder, such as `shared-pcgrad` or `gated-0.05`.
        kind: `separate`, `shared`, `gated` or `architecture`.
        sparsity_weight: λ_s of a gated network; with a budget, its value at the end of training.
        seed: The recipe's seed.
        checkpoints: The network's checkpoints, relative to the run's folder.
        metrics: The main metric of each task on the test split.
        scores: All metrics on the test split, by task and name.
        delta_mtl: Δ_MTL (eq. 6) as a fraction: 0.01 is one per cent better than the single-task networks;
            None where a metric of theirs is 0, to which nothing can be relative.
        delta_i: Δ_I of Safe Multi-Task Learning as a fraction, over all metrics; None where it was not measured.
        eta: η̂, the share of all metrics that are no worse than with single-task networks, in [0, 1].
        macs: Multiply-accumulates per image of the pruned network, heads included.
        parameters: Parameters of the pruned network, heads included.
        budget: The network's budget and the cost that it reached; None without a budget.
        tests: Task -> metric -> the paired test against the single-task network on the test split; tasks that have the
            encoder of that network have none.
        safety: How a network was made safe; None for others.
        gates: Unit -> task -> the share of the unit's channels that are the task's own, for gated networks.
    """

    name: RowName
    kind: Literal["separate", "shared", "gated", "architecture"]
    sparsity_weight: float | None = None
    seed: int
    checkpoints: Annotated[tuple[PathInRun, ...], Field(min_length=1, max_length=256)]
    metrics: dict[str, float]
    scores: dict[str, dict[str, float]] = {}
    delta_mtl: float | None
    delta_i: float | None = None
    eta: float | None = None
    macs: Size
    parameters: Size
    budget: BudgetReport | None = None
    tests: dict[str, dict[str, PairedTest]] = {}
    safety: Safety | None = None
    gates: dict[str, dict[str, float]] = {}


class RunResult(_Frozen):
    """The content of `run.json`.

    Attributes:
        format: The file's kind.
        version: The version of the format.
        recipe: The run's recipe as plain values.
        tasks: The run's tasks.
        rows: One row per network, in the order in which they were trained.
    """

    format: Literal["gate2static-run"] = "gate2static-run"
    version: Literal[1] = 1
    recipe: dict[str, Any]
    tasks: Annotated[tuple[TaskInfo, ...], Field(max_length=256)]
    rows: Annotated[tuple[ResultRow, ...], Field(max_length=10_000)] = ()

    def save(self, run_dir: Path) -> None:
        """Writes `run.json` into the run's folder, atomically.

        Raises:
            TrainingError: The file cannot be written.
        """
        write_atomically(run_dir / FILE, (self.model_dump_json(indent=2) + "\n").encode())

    def cautions(self) -> tuple[str, ...]:
        """Returns one sentence for every gated network that is not better than separate networks.

        There is a sentence too where a network could not be made safe, and where a task of a gated network was trained
        for more epochs than its separate network, which then is no fair comparison.
        """
        sentences = [
            f"{row.name}: Δ_MTL is {100 * row.delta_mtl:+.2f} %, so it is not better than separate networks"
            for row in self.rows
            if row.kind == "gated" and row.delta_mtl is not None and row.delta_mtl < 0
        ]
        sentences += [
            f"{row.name}: not shown to be as good as single-task networks: {', '.join(row.safety.unsafe)}; the "
            f"{row.safety.stopped} allowed no more"
            for row in self.rows
            if row.safety is not None and row.safety.unsafe
        ]
        try:
            recipe = parse(Recipe, self.recipe, where="the run's recipe")
        except RecipeError:  # of another version
            return tuple(sentences)
        training, gating = recipe.training, recipe.gating
        before = {
            "single": training.single.epochs,
            "shared": gating.branch_epoch or training.shared.epochs,
            "initial": 0,
        }
        total = before[gating.branch_init] + training.gated.epochs
        if total > training.single.epochs and any(row.kind == "gated" for row in self.rows):
            sentences.append(
                f"tasks of gated networks are trained for {total} epochs and separate networks for "
                f"{training.single.epochs}; they have the same with training.single.epochs={total}, "
                f"training.gated.epochs={total} and gating.branch_init=initial"
            )
        for row in self.rows:
            further = 0 if row.safety is None else row.safety.further_epochs
            if further and total + further > training.single.epochs:
                sentences.append(
                    f"{row.name}: the tasks that share are trained for {total + further} epochs and separate networks "
                    f"for {training.single.epochs}, so a gain may be that of training longer; compare with "
                    f"training.single.epochs={total + further}"
                )
        return tuple(sentences)

    def with_row(self, row: ResultRow) -> "RunResult":
        """Returns this result with one more row, which replaces a row of the same name."""
        others = tuple(other for other in self.rows if other.name != row.name)
        return self.model_copy(update={"rows": (*others, row)})


def load_result(run_dir: Path) -> RunResult:
    """Reads a run's `run.json`.

    Raises:
        CheckpointError: The file is missing, not one of ours, or from a newer version.
    """
    path = run_dir / FILE
    if not is_file(path):
        raise CheckpointError(f"{path}: no such file; {run_dir} is not a folder that `train` or `sweep` wrote")
    raw = read_json(path, what="run", error=CheckpointError)
    try:
        return RunResult.model_validate(raw)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a run of this version of gate2static: {first_problem(error)}") from None
