"""Suggested hinge targets τ_t, from the paper's two cues (section 4.1).

1. The gap between the single-task networks and the shared network: a task that loses by sharing needs own channels.
2. A large contribution to the shared branch by a task that loses by sharing: this task shares too much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gate2static.tasks.scores import delta_mtl
from gate2static.tasks.task import Task

NOISE = 0.002
"""Relative drops up to this count as none: the paper's Δ_MTL has a standard deviation of 0.1 % between seeds."""

_STEPS = 20
"""Targets are rounded to twentieths, because the cues are not more precise."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """The suggestion for one task.

    Attributes:
        drop: The share of its single-task metric that the task loses by sharing; negative where it gains.
        target: The suggested τ_t, in [0, 1].
        overshares: Whether the task fills more than an equal part of the shared branch although it loses by sharing. If
            so, a target above the suggested one is worth a try.
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
    """Suggests τ_t by task: 1 for the task with the largest relative drop, and a proportional value for the others.

    A task that gains from sharing, or drops by no more than `NOISE`, gets 0. The paper says that a larger drop needs a
    larger target, but not how much larger; the proportion is our choice.

    Args:
        separate: The single-task networks' main metric by task.
        shared: The main metric by task of a network that shares: the shared network, or the gated network that
            `contributions` belong to.
        tasks: The tasks to suggest targets for.
        contributions: By task, the share of the shared branch's channels where the task has the largest mixing weight
            (figure 3 of the paper), averaged over the units. Without contributions no task is marked as `overshares`.

    Raises:
        TrainingError: A task's metric is missing, or the single-task metric is 0.
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
