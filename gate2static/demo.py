"""The whole road on real handwritten digits: every stage in turn, from a recipe to a page, without repeating work."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from gate2static.bench import benchmark
from gate2static.errors import MissingDependencyError, RecipeError
from gate2static.files import is_up_to_date
from gate2static.pipeline import ONNX_FILE, delivery
from gate2static.progress import progress_bar
from gate2static.recipe import load_recipe
from gate2static.report import WrittenReport, write_report
from gate2static.train import RunResult, sweep, train
from gate2static.train.run_lock import locked

RECIPE = "digits_resnet20.yaml"


def bundled_recipe(name: str = RECIPE) -> Path:
    """Returns the path of a recipe that came with the package: inside it in a wheel, beside it in a clone.

    Raises:
        RecipeError: No such recipe came with the package.
    """
    package = Path(str(files("gate2static")))
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / name).is_file():
            return folder / name
    raise RecipeError(f"no recipe {name} came with this installation; give `train` or `sweep` the path of a YAML file")


def run_demo(run_dir: Path, *, overrides: Sequence[str] = ()) -> WrittenReport:
    """Trains, prunes, verifies, exports and times every network of the bundled recipe, and writes the report.

    Files of an interrupted run are used as they are, unless they are older than the files that they are made from.

    Args:
        run_dir: The folder for all files (docs/design.md, "A run folder").
        overrides: Changes to the recipe, as `key.sub=value`.

    Raises:
        VerificationError: A static network does not compute the function of its gated network.
        Gate2StaticError: A stage cannot do its work; the message says which stage and why.
    """
    recipe = load_recipe(bundled_recipe(), overrides)
    with locked(run_dir):
        result = (sweep if recipe.budget is None or recipe.sweep_budgets else train)(recipe, run_dir, resume=True)
        _deliver(run_dir, result)
        _time(run_dir, result)
        return write_report(run_dir)


def _deliver(run_dir: Path, result: RunResult) -> None:
    """Takes every network from its checkpoint to an engine; a missing library costs a line on stderr."""
    deliveries = {row.name: delivery(run_dir, row) for row in result.rows}
    with progress_bar(visible=True) as bar:
        bar_task = bar.add_task("", total=sum(len(steps) for steps in deliveries.values()))
        for name, steps in deliveries.items():
            for step in steps:
                bar.update(bar_task, description=f"{name}: {step.verb}")
                try:
                    step.run()
                except MissingDependencyError as error:
                    bar.console.print(f"{name}: cannot {step.verb}: {error}", style="yellow")
                bar.advance(bar_task)


def _time(run_dir: Path, result: RunResult) -> None:
    """Times all networks side by side: the shared one first, which the others are compared with.

    It uses one thread, because networks this small gain nothing from a second one, which would only wait for the first.
    """
    # The reference comes first.
    names = sorted((row.name for row in result.rows), key=lambda name: name != "shared")
    models = {name: run_dir / name / ONNX_FILE for name in names}
    if not is_up_to_date(run_dir / "latency.json", models.values()):
        benchmark(models, duration_s=2.0, threads=1).to_json(run_dir / "latency.json")
