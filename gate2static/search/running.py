"""A search, from its recipe to its ended trials. Any number of processes may work on it at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gate2static.errors import SearchError
from gate2static.files import in_turn, is_file, write_atomically
from gate2static.front.records import ADVICE, SEARCH_FILE, SearchInfo, TrialRecord, load_search, load_trials
from gate2static.recipe import Recipe
from gate2static.runtimes.optional import require
from gate2static.search.space import checked_space, searched
from gate2static.search.trial import Searching, digest, latency_measure
from gate2static.train.processes.devices import under_torchrun

JOURNAL = "search.journal"
"""The file in a search's folder that trials are handed out by, unless there is another storage."""


def search(
    recipe: Recipe,
    run_dir: str | Path,
    *,
    storage: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> tuple[TrialRecord, ...]:
    """Works on a search until all its trials have ended, also with other workers of the same search.

    Args:
        recipe: The recipe, with its `search`.
        run_dir: The folder for networks and results (docs/design.md, "A run folder").
        storage: Hands out trials: the address of a data base, as SQLAlchemy takes it, or the path of a journal;
            a journal in the folder by default.
        say: Is called with lines for the user.
        progress: Whether to show progress bars on stderr.

    Returns:
        The trials that ended in this folder.

    Raises:
        RecipeError: The recipe has no search, or a point of its space is no valid recipe; nothing is trained then.
        MissingDependencyError: Optuna is not installed.
        SearchError: The folder holds another search, the storage cannot be used, or every trial failed.
        Gate2StaticError: As for `train`. The trial is given back.
    """
    if under_torchrun():
        raise SearchError(
            "torchrun would make each of its processes a worker of its own; start `gate2static search` without it, and "
            "give training.devices for several GPUs per network"
        )
    require("optuna")
    from gate2static.search.storage import shown
    from gate2static.search.study import opened_study
    from gate2static.search.worker import Worker

    run_dir = Path(run_dir)
    wanted = searched(recipe)
    space = checked_space(recipe)
    measure_ms, latency = latency_measure(wanted.device)
    # More trials may be asked for later.
    plain = recipe.model_dump(mode="json", exclude={"runs_dir": True, "search": {"trials"}})
    _join(SearchInfo(name=recipe.name, recipe=plain, objectives=wanted.objectives, latency=latency), run_dir)
    searching = Searching(recipe=recipe, run_dir=run_dir, measure_ms=measure_ms, say=say, progress=progress)
    place = storage or str(run_dir / JOURNAL)
    epochs = recipe.training.gated.epochs
    # Searches with other recipes in the same data base have other names.
    with opened_study(f"{recipe.name}-{digest(plain, 10)}", place, wanted, space, recipe.seed, epochs) as study:
        Worker(searching, space, study, shown(place)).work()
    records = load_trials(run_dir)
    if records and all(record.error for record in records):
        raise SearchError(f"all {len(records)} trials failed, the first one so: {records[0].error}")
    return records


def _join(info: SearchInfo, run_dir: Path) -> None:
    """Writes `search.json`, or compares it with that of the workers before.

    Raises:
        SearchError: The folder holds a search with another recipe.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise SearchError(f"cannot write {run_dir}: {reason}; choose another folder") from error
    with in_turn(run_dir):
        if not is_file(run_dir / SEARCH_FILE):
            data = (info.model_dump_json(indent=1) + "\n").encode()
            write_atomically(run_dir / SEARCH_FILE, data, error=SearchError, advice=ADVICE)
            return
    before = load_search(run_dir)
    if before != info:
        raise SearchError(
            f"{run_dir} holds a search with another recipe: {_difference(before.recipe, info.recipe)}; only "
            "search.trials may change, so choose another folder"
        )


def _difference(before: Any, now: Any, path: str = "") -> str:
    """Returns the first difference between two plain values, with the path to it."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    return f"{path} is {before} there, {now} here"
