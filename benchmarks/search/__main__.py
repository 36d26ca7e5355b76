"""Times everything of a search but its training: `python -m benchmarks.search`.

Networks are replaced by numbers, so that a trial is what Optuna, its storage and our files make of it. Then the front
of these trials is read, drawn and written.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gate2static.front.page import render_front
from gate2static.front.pareto import read_front
from gate2static.recipe import Recipe, load_recipe
from gate2static.search import search, trial
from gate2static.train import ResultRow, RunResult, TaskInfo

RECIPE = Path("recipes/digits_tiny.yaml")
SPACE = "{sparsity_weight: {log: [1, 100]}, gating.group_size: [1, 2, 4, layer], tasks.0.target: {range: [0, 1]}}"


def main() -> None:
    """Prints seconds per trial by storage, and seconds of a front."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--storage", help="the address of a data base; a journal and SQLite by default")
    options = parser.parse_args()
    trial._network_trained = without_training
    with tempfile.TemporaryDirectory() as folder:
        storages = {"journal": None, "SQLite": f"sqlite:///{folder}/studies.db"}
        if options.storage:
            storages = {options.storage.partition(":")[0]: options.storage}
        for name, storage in storages.items():
            run_dir = Path(folder) / name
            _time_trials(name, run_dir, storage, options.trials, options.sampler)
        begin = time.perf_counter()
        page = render_front(read_front([run_dir]))
        seconds = time.perf_counter() - begin
    print(f"front of {options.trials} trials: {seconds:.2f} s, a page of {len(page) / 1e6:.1f} MB")


def _time_trials(name: str, run_dir: Path, storage: str | None, trials: int, sampler: str) -> None:
    recipe = load_recipe(RECIPE, [f"search={{space: {SPACE}, trials: {trials}, sampler: {sampler}}}"])
    begins: list[tuple[float, float]] = []
    search(recipe, run_dir, storage=storage, say=lambda line: begins.append((time.perf_counter(), time.process_time())))
    tenth = max(1, len(begins) // 10)
    for which, part in (("first", begins[: tenth + 1]), ("last", begins[-tenth - 1 :])):
        wall, cpu = ((part[-1][clock] - part[0][clock]) / (len(part) - 1) for clock in (0, 1))
        print(f"{name}, {sampler}, {which} tenth of {trials} trials: {wall:.3f} s per trial, {cpu:.3f} s of CPU")


def without_training(
    searching: trial.Searching, base: Recipe, run_dir: Path, row: str, variant: Recipe, is_hopeless: object
) -> RunResult:
    """Returns a result whose numbers follow from the network's name."""
    draw = random.Random(row)
    gain = draw.gauss(0, 0.02)
    rows = tuple(
        _row(name, {task.name: 0.5 * (1 + share * gain) for task in variant.tasks}, share * gain, macs)
        for name, share, macs in (("separate", 0, 1000), ("shared", -1, 400), (row, 1, draw.randrange(400, 1000)))
    )
    tasks = tuple(TaskInfo(name=task.name, metric="accuracy", higher_is_better=True) for task in variant.tasks)
    return RunResult(recipe={}, tasks=tasks, rows=rows)


def _row(name: str, metrics: Mapping[str, float], delta_mtl: float, macs: int) -> ResultRow:
    values: dict[str, Any] = {
        "name": name,
        "kind": name if name in ("separate", "shared") else "gated",
        "seed": 0,
        "checkpoints": (f"{name}/ckpt.pt",),
        "metrics": dict(metrics),
        "delta_mtl": delta_mtl,
        "macs": macs,
        "parameters": macs,
    }
    return ResultRow.model_validate(values)


if __name__ == "__main__":
    main()
