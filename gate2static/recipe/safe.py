"""The part of a recipe that asks for a safe network: no task worse than with a network of its own."""

from typing import Annotated, Literal

from pydantic import Field

from gate2static.recipe.budget import Budget
from gate2static.recipe.strict import Count, Fraction, Strict


class SafeRecipe(Strict):
    """What counts as no worse, and what it may cost (docs/safety.md); `safe: true` has the defaults."""

    margin: Fraction = 0.0
    """The share of a metric of the single-task network that a task may lose: 0.01 is one per cent."""
    significance: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """The largest probability of passing a task that loses more than the margin, in one check."""
    metrics: Literal["main", "all"] = "main"
    """The metrics for which no loss has to be shown. With `main`, a task's other metrics only must not lose more than
    the margin on the validation split as it is."""
    epochs: Count | None = None
    """Epochs for which the tasks that still share are trained on behind each change; None is as many as the gated
    network had. Safe architectures are not trained on."""
    rounds: Count | None = None
    """The most changes; None allows one per task, behind which every task has its own encoder."""
    budget: Budget | None = None
    """The most that the safe network may cost; None is the gated network's own budget, if it has one, and no limit for
    architectures."""
