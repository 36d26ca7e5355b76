"""Targets τ_t to start from: the paper's two cues for them (section 4.1).

1. The gap between the single-task networks and the shared one: a task that loses by sharing needs channels of its own.
2. Which tasks fill the shared branch although they lose by it: they overly share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gate2static.tasks.scores import delta_mtl
from gate2static.tasks.task import Task

NOISE = 0.002
"""Relative drops up to this are none. Between seeds, the paper's Δ_MTL has a standard deviation of 0.1 % and more."""

_STEPS = 20
"""Targets are suggested in twentieths; nothing that the cues say is finer."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What the cues say of one task.

    `drop` is the part of its single-task metric that it loses by sharing, negative where it gains. `target` is τ_t.
    `overshares` says that it fills more than an equal part of the shared branch and loses by sharing: where that is so,
    a target above the suggested one is worth a try.
    """

    drop: float
    target: float
    overshares: bool


def suggest_targets(
    separate: Mapping[str, float],
    shared: Mapping[str, float],
    tasks: Sequence[Task],
    *,
    contributions: Mapping[str, float] | None = None,
) -> dict[str, Suggestion]:
    """Suggests τ_t by task: 1 for the task with the largest relative drop, and for the others in proportion to theirs.

    A task that gains from sharing, or drops by no more than `NOISE`, gets 0. The paper says that a larger drop calls
    for a larger target but not how much larger; in proportion is our choice.

    Args:
        separate: The single-task networks' main metric by task.
        shared: That of a network that shares: the shared one, or the gated one that `contributions` are of.
        tasks: The tasks to suggest targets for.
        contributions: By task, the part of the shared branch's channels where it has the largest mixing weight
            (figure 3 of the paper), averaged over the units. Without them no task is said to share too much.

    Raises:
        TrainingError: A task's metric is missing, or the single-task one is 0.
    """
    drops = {task.name: -delta_mtl(shared, separate, [task]) for task in tasks}
    largest = max(drops.values(), default=0.0)
    return {
        name: Suggestion(
            drop=drop,
            target=round(_STEPS * drop / largest) / _STEPS if drop > NOISE else 0.0,
            overshares=drop > NOISE and contributions is not None and contributions[name] * len(tasks) > 1,
        )
        for name, drop in drops.items()
    }
