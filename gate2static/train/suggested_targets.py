"""Hinge targets τ_t for the next run, suggested from the results of a finished run."""

from pathlib import Path

import numpy as np

from gate2static.data import describe_data
from gate2static.errors import TrainingError
from gate2static.recipe import Recipe, parse
from gate2static.tasks import Suggestion, build_tasks, suggest_targets
from gate2static.train.networks import load_gated
from gate2static.train.results import load_result


def suggest_for_run(run_dir: Path) -> dict[str, Suggestion]:
    """Suggests τ_t by task, from a run's single-task and shared networks and, if there is one, its first gated network.

    Args:
        run_dir: A folder that `train` or `sweep` wrote.

    Raises:
        CheckpointError: The folder holds no run, or its gated network cannot be read.
        TrainingError: The run's single-task or shared networks are not measured yet.
    """
    result = load_result(run_dir)
    rows = {row.name: row for row in result.rows}
    if missing := [name for name in ("separate", "shared") if name not in rows]:
        raise TrainingError(f"{run_dir}: has no row for {' and '.join(missing)} yet; continue with `train --resume`")
    recipe = parse(Recipe, result.recipe, where=f"{run_dir}: the recipe inside")
    gated = next((row for row in result.rows if row.kind == "gated"), None)
    return suggest_targets(
        rows["separate"].metrics,
        rows["shared"].metrics,
        build_tasks(recipe.tasks, describe_data(recipe.data)),
        contributions=_contributions(run_dir / gated.checkpoints[0]) if gated else None,
    )


def _contributions(checkpoint: Path) -> dict[str, float]:
    """Returns, by task, the share of the shared branch where the task weighs most (figure 3), averaged over units."""
    gated, _ = load_gated(checkpoint)
    means = np.mean([gate.contributions() for gate in gated.gates.values()], axis=0)
    return dict(zip(gated.tasks, means.tolist(), strict=True))
