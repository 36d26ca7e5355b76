"""What a search writes into its run's folder: `search.json`, and one file per ended trial.

Reading them needs neither torch nor the search's storage, so that a front of thousands of trials is there at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gate2static.errors import SearchError
from gate2static.files import read_bytes, write_atomically
from gate2static.strict_json import PathInRun, RowName, read_model

SEARCH_FILE = "search.json"
TRIALS = "trials"
"""The folder of the trials' files."""
ADVICE = "Free some space, then start the same command again."
Size = Annotated[int, Field(ge=0, lt=2**63)]
Objective = Literal["delta_mtl", "worst_task", "macs", "latency_ms"]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(ge=-1e100, le=1e100)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskMetric(_Frozen):
    """The meaning of a task's numbers.

    Attributes:
        name: The task's name.
        metric: The main metric's name.
        higher_is_better: Whether a higher value of the main metric is better.
    """

    name: str
    metric: str
    higher_is_better: bool


class SearchInfo(_Frozen):
    """The content of `search.json`: what all trials have in common.

    Attributes:
        format: The file's kind.
        version: The version of the format.
        name: The recipe's name.
        recipe: The recipe with its search, without its number of trials, as plain values.
        objectives: What the front is a front of.
        latency: How latencies came about, in words; empty without latencies.
    """

    format: Literal["gate2static-search"] = "gate2static-search"
    version: Literal[1] = 1
    name: str
    recipe: dict[str, Any]
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=4)]
    latency: str = ""


class Measured(_Frozen):
    """The test results and the cost of one network.

    Attributes:
        metrics: The main metric by task.
        delta_mtl: Δ_MTL as a fraction; None where a single-task metric is 0.
        worst_task: The gain of the task that gains the least over its single-task network, as a fraction; None as
            for `delta_mtl`.
        macs: Multiply-accumulates per sample, heads included.
        parameters: The number of parameters.
    """

    metrics: Annotated[dict[str, Finite], Field(max_length=256)]
    delta_mtl: Finite | None
    worst_task: Finite | None
    macs: Size
    parameters: Size


class NetworkRecord(_Frozen):
    """One gated network of a trial, and the baselines that it is compared with.

    Attributes:
        seed: The seed that the network and its baselines were trained with.
        run: The folder of the network's run, inside the search's folder.
        checkpoint: The network's checkpoint, inside the folder of its run.
        gated: The network's results.
        separate: The results of the single-task networks together.
        shared: The results of the shared network.
        latency_ms: The latency of one sample in ms; None where it is no objective.
        gates: Unit -> task -> the share of the unit's channels that are the task's own, input first; empty in files of
            older versions.
    """

    seed: Size
    run: PathInRun
    checkpoint: PathInRun
    gated: Measured
    separate: Measured
    shared: Measured
    latency_ms: Annotated[Finite, Field(gt=0)] | None = None
    gates: Annotated[dict[str, dict[str, Share]], Field(max_length=10_000)] = {}


class TrialRecord(_Frozen):
    """An ended trial: a point of the space, and one network per seed.

    Attributes:
        format: The file's kind.
        version: The version of the format.
        slot: The trial's number, from 0.
        point: The values that differ from the search's recipe, by key.
        row: The name of the networks' rows, which is a digest of their recipe without its seed.
        tasks: The tasks, in the recipe's order; empty where the trial failed or was stopped.
        networks: The networks; empty where the trial failed or was stopped.
        stopped_after: The epochs after which the trial was stopped as hopeless; 0 where it was not.
        error: Why the trial failed; empty where it did not.
    """

    format: Literal["gate2static-trial"] = "gate2static-trial"
    version: Literal[1] = 1
    slot: Size
    point: dict[str, Any]
    row: RowName
    tasks: Annotated[tuple[TaskMetric, ...], Field(max_length=256)] = ()
    networks: Annotated[tuple[NetworkRecord, ...], Field(max_length=100)] = ()
    stopped_after: Size = 0
    error: str = ""

    def save(self, run_dir: Path) -> None:
        """Writes the trial's file into the search's folder, atomically.

        Raises:
            SearchError: The file cannot be written.
        """
        path = run_dir / TRIALS / f"{self.slot:05}.json"
        data = (self.model_dump_json(indent=1) + "\n").encode()
        write_atomically(path, data, error=SearchError, advice=ADVICE)


def load_search(run_dir: Path) -> SearchInfo:
    """Reads `search.json`.

    Raises:
        SearchError: The folder holds no search, or the file is not one of ours.
    """
    advice = "give a folder that `gate2static search` wrote"
    return read_model(run_dir / SEARCH_FILE, SearchInfo, what="search", advice=advice, error=SearchError)


def load_trials(run_dir: Path, row: str | None = None) -> tuple[TrialRecord, ...]:
    """Reads the ended trials of a search, in the order of their numbers.

    Args:
        run_dir: The search's folder.
        row: The name of the networks' rows of the trials to read; None reads all.

    Raises:
        SearchError: A file is not one of ours.
    """
    files: Sequence[Path] = sorted((run_dir / TRIALS).glob("[0-9]*.json"))
    if row is not None:
        # A search asks for one row before every trial, and checking all files would take longer with every trial.
        files = [file for file in files if row.encode() in read_bytes(file, what="trial", error=SearchError)]
    advice = "remove it, and start the search again, which writes it anew"
    trials = (read_model(file, TrialRecord, what="trial", advice=advice, error=SearchError) for file in files)
    return tuple(trial for trial in trials if row in (None, trial.row))
