"""The control of a comparison: separate networks that train for as long as everything else.

A gated network starts from the single-task networks, so its branches have seen more epochs than these have.
"""

from pathlib import Path

from gate2static.recipe import Recipe
from gate2static.train import ResultRow, sweep

NAME = "separate, longer"


def longer_separate(recipe: Recipe, run_dir: Path) -> ResultRow:
    """The row of the recipe's separate networks, trained for single plus gated epochs; resumes.

    Args:
        recipe: of the comparison.
        run_dir: of the control. The shared and the gated network that every run has train for one epoch there.
    """
    training = recipe.training
    epochs = training.single.epochs + training.gated.epochs
    brief = {name: getattr(training, name).model_copy(update={"epochs": 1}) for name in ("shared", "gated")}
    longer = training.model_copy(
        update={"single": training.single.model_copy(update={"epochs": epochs, "patience": None}), **brief}
    )
    control = recipe.model_copy(update={"training": longer, "sweep": recipe.sweep[:1]})
    result = sweep(control, run_dir, resume=True, progress=False)
    return result.rows[0].model_copy(update={"name": NAME})
