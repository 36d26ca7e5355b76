"""Trains a recipe's shared network with every method, times their steps, and writes the page.

    python -m benchmarks.methods benchmarks/methods/scenes.yaml --seeds 0 1 2 --page docs/methods_results.md

Goes on where it was interrupted. Logs are kept under `runs/methods/`, results under `benchmarks/results/methods/`.
"""

import argparse
import fnmatch
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods import networks
from benchmarks.methods.cost import Cost, measure_costs
from benchmarks.methods.networks import Result
from benchmarks.methods.page import write_page
from gate2static.data import describe_data, load_data
from gate2static.errors import Gate2StaticError
from gate2static.files import write_atomically
from gate2static.recipe import Recipe, load_recipe, parse
from gate2static.tasks import build_tasks
from gate2static.train.processes.devices import start_fabric
from gate2static.train.processes.memory import keep_freed_memory

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "methods"
COSTS = RESULTS / "costs.json"


def read_results(path: Path, recipe: Recipe) -> list[Result]:
    """Returns the results so far.

    Raises:
        SystemExit: They are those of another recipe of the same name.
    """
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    # Settings that came later have their defaults.
    if _settings(parse(Recipe, content["recipe"], where=str(path))) != _settings(recipe):
        raise SystemExit(f"{path} has results of another recipe; give this one another name with --set name=…")
    return [Result(**entry) for entry in content["results"]]


def write_results(path: Path, recipe: Recipe, results: list[Result]) -> None:
    """Writes all results."""
    content = {"recipe": _settings(recipe), "results": [asdict(result) for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=None) + "\n").encode(), error=Gate2StaticError)


def _settings(recipe: Recipe) -> dict[str, Any]:
    settings: dict[str, Any] = recipe.model_dump(mode="json")
    settings["data"]["options"].pop("root", None)  # where this machine has the files
    return settings


def train_missing(
    recipe: Recipe, seeds: list[int], floor: list[int], only: list[str], path: Path, folder: Path
) -> None:
    """Trains what has no result yet, method by method, and writes the results after every network."""
    results = read_results(path, recipe)
    done = {(result.name, result.seed) for result in results if result.is_whole}
    tasks = build_tasks(recipe.tasks, describe_data(recipe.data))
    splits = load_data(recipe.data, [task.name for task in tasks])
    keep_freed_memory()
    fabric = start_fabric(recipe)
    fabric.launch()
    for seed in sorted({*seeds, *floor}):
        if (networks.SEPARATE, seed) not in done:
            results.append(networks.train_separate(recipe, seed, tasks, splits, folder / f"seed-{seed}", fabric))
            write_results(path, recipe, results)
    for candidate in networks.candidates(len(tasks)):
        name = candidate.name
        if not any(fnmatch.fnmatch(name, glob) for glob in [*only, networks.PLAIN]):
            continue
        for seed in sorted({*seeds, *(floor if name == networks.PLAIN else [])}):
            if (name, seed) in done:
                continue
            own = folder / f"seed-{seed}"
            new = networks.train_method(recipe, candidate, seed, tasks, splits, own, fabric)
            results = [result for result in results if (result.name, result.seed) != (name, seed)] + [new]
            write_results(path, recipe, results)
            print(name, seed, new.failed, flush=True)


def main() -> None:
    """Trains and times what is missing, and writes the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, as for `gate2static train`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--floor", type=int, nargs="*", default=list(range(8)), help="seeds of `sum`: the noise floor")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of labels, such as '*-sum-scale'")
    parser.add_argument("--no-training", action="store_true", help="write the page from what there is")
    parser.add_argument("--costs", action="store_true", help="time the steps anew")
    parser.add_argument("--folder", type=Path, help="where logs are kept; runs/methods/NAME by default")
    parser.add_argument("--page", type=Path, help="write a page of the recipe's results there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, options.set)
    folder = options.folder or ROOT / "runs" / "methods" / recipe.name
    path = RESULTS / f"{recipe.name}.json"
    if not options.no_training:
        train_missing(recipe, options.seeds, options.floor, options.only, path, folder)
    if options.costs or not COSTS.exists():
        costs = [asdict(cost) for cost in measure_costs()]
        COSTS.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(COSTS, (json.dumps(costs, indent=1) + "\n").encode(), error=Gate2StaticError)
    if options.page:
        costs = [Cost(**entry) for entry in json.loads(COSTS.read_text())]
        write_page(options.page, recipe, read_results(path, recipe), costs)


if __name__ == "__main__":
    main()
