"""Δ_I and η̂ of Safe Multi-Task Learning: what a network gains over single-task networks in all metrics of all tasks."""

from collections.abc import Mapping, Sequence
from statistics import mean

from gate2static.tasks.task import Task

Gains = Mapping[str, Mapping[str, float]]
"""Task -> metric -> relative gain over the single-task network; positive is better."""


def relative_gains(
    scores: Mapping[str, Mapping[str, float]], baseline: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]
) -> dict[str, dict[str, float]]:
    """Returns Δ_(t,j) / STL_(t,j) by task and metric.

    Args:
        scores: All metrics of a network by task and name.
        baseline: Those of the single-task networks. A metric that is 0 there is left out: nothing is relative to it.
        tasks: The tasks.
    """
    gains: dict[str, dict[str, float]] = {}
    for task in tasks:
        gains[task.name] = {}
        for name, single in baseline[task.name].items():
            if single == 0:
                continue
            gain = (scores[task.name][name] - single) / abs(single)
            gains[task.name][name] = -gain if name in task.kind.errors else gain
    return gains


def delta_i(gains: Gains) -> float:
    """Returns Δ_I, the mean over the tasks of the mean relative gain in a task's metrics, as a fraction."""
    return mean(mean(of_task.values()) for of_task in gains.values() if of_task)


def eta(gains: Gains) -> float:
    """Returns η̂, the mean over the tasks of the share of a task's metrics that are no worse, in [0, 1].

    1 is safe: no metric of any task is worse than with a network of its own (definition 3). The paper's abstract
    definition, "no larger than η", contradicts that one.
    """
    return mean(mean(float(gain >= 0) for gain in of_task.values()) for of_task in gains.values() if of_task)
