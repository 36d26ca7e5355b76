"""The whole road on real handwritten digits: every stage in turn, from a recipe to a page, without repeating work."""

from collections.abc import Sequence
from pathlib import Path

from gate2static.delivering import deliver
from gate2static.recipe import bundled_recipe, load_recipe
from gate2static.report import WrittenReport
from gate2static.runtimes.onnxruntime import onnxruntime
from gate2static.train import sweep, train
from gate2static.train.run_lock import locked

RECIPE = "digits_resnet20"


def run_demo(run_dir: Path, *, overrides: Sequence[str] = ()) -> WrittenReport:
    """Trains, prunes, verifies, exports and times every network of the bundled recipe, and writes the report.

    Files of an interrupted run are used as they are, unless they are older than the files that they are made from.

    Args:
        run_dir: The folder for all files (docs/design.md, "A run folder").
        overrides: Changes to the recipe, as `key.sub=value`.

    Raises:
        MissingDependencyError: ONNX Runtime, or what training needs, is not installed.
        VerificationError: A static network does not compute the function of its gated network.
        Gate2StaticError: A stage cannot do its work; the message says which stage and why.
    """
    onnxruntime()  # what the last steps need is missed before minutes of training
    recipe = load_recipe(bundled_recipe(RECIPE), overrides)
    with locked(run_dir):
        (sweep if recipe.budget is None or recipe.sweep_budgets else train)(recipe, run_dir, resume=True)
        # One thread: networks this small gain nothing from a second one, which would only wait for the first.
        return deliver(run_dir, engines=True, threads=1)
