"""The commands that start something: the demo, a project, a recipe, a training."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gate2static.cli.arguments import (
    Baselines,
    Json,
    Overrides,
    RecipePath,
    Resume,
    RunDir,
    open_run,
    show_report,
    show_trained,
    tell,
)
from gate2static.terminal import say


def demo(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Output folder.")] = Path("demo-run"),
    overrides: Overrides = None,
    json: Json = None,
) -> None:
    """Run every step on bundled real digits: train, prune, verify, export, time, report."""
    from gate2static.demo import run_demo

    show_report(run_demo(run_dir, overrides=overrides or ()), json)


def new(
    name: Annotated[str, typer.Argument(help="The name of the project, of its folder and its package.")],
    json: Json = None,
) -> None:
    """Write a small project that runs: your own data set, backbone, kind of task, training loop and recipe."""
    from gate2static.project import write_project

    folder = write_project(name, Path())
    tell(f"written: {folder}; its README.md says what to type", json, {"folder": str(folder)})


def recipes(
    copy: Annotated[
        str | None, typer.Option("--copy", metavar="NAME", help="Copy this recipe into the working folder.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every key that a recipe may have.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
    json: Json = None,
) -> None:
    """List the recipes that came with the package; `train` and `sweep` take their names."""
    from gate2static.cli.recipe_answers import answer_about_recipes

    answer_about_recipes(copy=copy, explain=explain, schema=schema, json=json)


def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
    run_dir: RunDir = None,
    baselines: Baselines = None,
    budget_ms: Annotated[
        float | None,
        typer.Option("--budget-ms", help="The most milliseconds for one sample on --device; implies preset: deploy."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="A latency table's JSON file, or a device such as jetson-orin-agx.")
    ] = None,
    json: Json = None,
) -> None:
    """Train single-task, shared and gated networks at the recipe's sparsity weight, or to its budget."""
    from gate2static.cli.option_checks import latency_overrides
    from gate2static.train import train as train_run

    loaded, folder = open_run(recipe, [*latency_overrides(budget_ms, device), *(overrides or ())], run_dir)
    show_trained({folder: train_run(loaded, folder, resume=resume, baselines=baselines)}, json)


def sweep(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
    run_dir: RunDir = None,
    baselines: Baselines = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Seeds such as 0,1,2: one run for each, in folders seed-0, seed-1 and so on."),
    ] = None,
    deliver: Annotated[bool, typer.Option("--deliver", help="Go on with `deliver` when all is trained.")] = False,
    json: Json = None,
) -> None:
    """Train the baselines, and a network per sparsity weight, budget, method and architecture of the recipe."""
    from gate2static.cli.option_checks import runs_of_seeds
    from gate2static.train import check_baselines
    from gate2static.train import sweep as sweep_run

    sweeps = []
    for seed_overrides, folder_name in runs_of_seeds(seeds):
        loaded, folder = open_run(recipe, [*(overrides or ()), *seed_overrides], run_dir)
        taken = baselines and baselines / folder_name
        if taken is not None:  # of every seed, before the first one is trained
            check_baselines(loaded, taken)
        sweeps.append((loaded, folder / folder_name, taken))
    runs = {
        folder: sweep_run(loaded, folder, resume=resume, baselines=taken) for loaded, folder, taken in sweeps
    }
    show_trained(runs, json)
    if deliver:
        from gate2static.delivering import deliver as deliver_run

        for run in runs:
            page = deliver_run(run).html
            # JSON on stdout stays alone.
            say(f"report: {page}", error=json == Path("-"))


def search(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="What hands out trials: a data base such as postgresql://HOST/NAME, or a journal's path; a journal in "
            "the output folder by default.",
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Try many recipes: the same command again is one more worker, or goes on after an interruption."""
    from gate2static.search import search as search_run

    loaded, folder = open_run(recipe, overrides, run_dir)
    # Beside JSON on stdout, what is waited for goes to stderr.
    records = search_run(loaded, folder, storage=storage, say=partial(say, error=json == Path("-")))
    content = {"folder": str(folder), "trials": [record.model_dump(mode="json") for record in records]}
    tell(f"searched: {folder}; see gate2static front {folder}", json, content)
