"""`run.json`: what a run trained and how good and how large each network is."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gate2static.budget import BudgetReport
from gate2static.errors import CheckpointError
from gate2static.train.loop.atomic import write_atomically

FILE = "run.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskInfo(_Frozen):
    """What the numbers of a task mean."""

    name: str
    metric: str
    higher_is_better: bool


class Row(_Frozen):
    """One network of a run, or the set of single-task networks.

    `metrics` are the tasks' main metrics on the test split, `scores` all of them by task and name. `macs` (per image,
    heads included) and `parameters` count the static network that pruning makes. `delta_mtl` is eq. 6 as a fraction.
    `checkpoints` are relative to the run's folder. `budget` says what was asked of a network with one and what it
    costs; its `sparsity_weight` is λ_s at the end of training.
    """

    name: str
    kind: Literal["separate", "shared", "gated"]
    sparsity_weight: float | None = None
    seed: int
    checkpoints: Annotated[tuple[str, ...], Field(min_length=1)]
    metrics: dict[str, float]
    scores: dict[str, dict[str, float]] = {}
    delta_mtl: float
    macs: int
    parameters: int
    budget: BudgetReport | None = None


class RunResult(_Frozen):
    """A run's recipe (plain values), its tasks and its rows in the order they were trained."""

    format: Literal["gate2static-run"] = "gate2static-run"
    version: Literal[1] = 1
    recipe: dict[str, Any]
    tasks: tuple[TaskInfo, ...]
    rows: tuple[Row, ...] = ()

    def save(self, run_dir: Path) -> None:
        """Writes `run.json` into the run's folder, atomically."""
        write_atomically(run_dir / FILE, (self.model_dump_json(indent=2) + "\n").encode())

    def with_row(self, row: Row) -> "RunResult":
        """This result with one row more; a row of the same name gives way."""
        rows = tuple(old for old in self.rows if old.name != row.name)
        return self.model_copy(update={"rows": (*rows, row)})


def load_result(run_dir: Path) -> RunResult:
    """Reads a run's `run.json`.

    Raises:
        CheckpointError: There is none, or it is not one of ours or from a newer version.
    """
    path = run_dir / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; {run_dir} is not a folder that `train` or `sweep` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    try:
        return RunResult.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: not a run of this version of gate2static: {key}: {first['msg']}") from None
