"""Comparison of networks by the metrics of all their tasks."""

from collections.abc import Mapping, Sequence
from statistics import mean

from gate2static.errors import TrainingError
from gate2static.tasks.task import Task


def main_scores(scores: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]) -> dict[str, float]:
    """Returns the main metric by task, which Δ_MTL, ranks and tables compare.

    Args:
        scores: All metrics by task and name.
        tasks: The tasks to select.
    """
    return {task.name: scores[task.name][task.kind.metric_name] for task in tasks}


def relative_gain(value: float, baseline: float, *, higher_is_better: bool) -> float:
    """Returns by how much a metric is better than a baseline that is not 0, relative to it; 0.01 is one per cent."""
    gain = (value - baseline) / baseline
    # A lower error is a gain.
    return gain if higher_is_better else -gain


def delta_mtl(metrics: Mapping[str, float], baseline: Mapping[str, float], tasks: Sequence[Task]) -> float:
    """Returns Δ_MTL (eq. 6), the mean relative gain over the single-task networks; 0.01 is one per cent better.

    Args:
        metrics: The network's main metric by task.
        baseline: The single-task networks' main metric by task.
        tasks: The tasks to average over; their kinds know whether higher is better.

    Raises:
        TrainingError: A task's metric is missing, or its baseline is 0, so that no gain can be relative to it.
    """
    gains = []
    for task in tasks:
        if task.name not in metrics or task.name not in baseline:
            raise TrainingError(f"delta_mtl: no metric for {task.name}; both sets of metrics need every task")
        if baseline[task.name] == 0:
            raise TrainingError(
                f"delta_mtl: the single-task {task.kind.metric_name} of {task.name} is 0, so no gain can be relative "
                "to it; train the single-task networks longer, in another folder"
            )
        higher_is_better = task.kind.higher_is_better
        gains.append(relative_gain(metrics[task.name], baseline[task.name], higher_is_better=higher_is_better))
    return mean(gains)


def mean_rank(rows: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]) -> dict[str, float]:
    """Returns each network's rank among all networks, averaged over the tasks; 1 is best.

    Networks with equal metrics share the mean of their ranks.

    Args:
        rows: Main metrics by network and task.
        tasks: The tasks to rank by.
    """
    ranks: dict[str, list[float]] = {name: [] for name in rows}
    for task in tasks:
        sign = 1 if task.kind.higher_is_better else -1
        scores = {name: sign * metrics[task.name] for name, metrics in rows.items()}
        for name, score in scores.items():
            better = sum(other > score for other in scores.values())
            equal = sum(other == score for other in scores.values())
            ranks[name].append(better + (equal + 1) / 2)
    return {name: mean(values) for name, values in ranks.items()}
