"""The whole road on real handwritten digits: every stage in turn, from a recipe to a page, without repeating work."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from gate2static.delivering import deliver
from gate2static.errors import RecipeError
from gate2static.recipe import load_recipe
from gate2static.report import WrittenReport
from gate2static.train import sweep, train
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
        (sweep if recipe.budget is None or recipe.sweep_budgets else train)(recipe, run_dir, resume=True)
        # One thread: networks this small gain nothing from a second one, which would only wait for the first.
        return deliver(run_dir, engines=True, threads=1)
