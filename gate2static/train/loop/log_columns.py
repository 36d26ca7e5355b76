"""What the log says of an epoch, and which epoch was the best."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch

from gate2static.budget import BudgetController
from gate2static.gates import GatedModel, gate_decisions
from gate2static.prune import expected_macs
from gate2static.tasks import Task
from gate2static.train.loop.log import LogRow


def metric_columns(scores: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]) -> LogRow:
    """`val/<task>` is the main metric; tasks with more have them as `val/<task>/<metric>`."""
    row: LogRow = {f"val/{task.name}": scores[task.name][task.kind.metric_name] for task in tasks}
    for task in tasks:
        others = {name: value for name, value in scores[task.name].items() if name != task.kind.metric_name}
        row |= {f"val/{task.name}/{name}": value for name, value in others.items()}
    return row


def gate_columns(gated: GatedModel) -> LogRow:
    """The share of channels that each task takes from its own branch, over all units, and the MACs that would be left.

    MACs are those of an image in the static network that pruning would make now.
    """
    decisions = torch.cat(list(gate_decisions(gated).values()), dim=1)
    shares = decisions.double().mean(dim=1).tolist()
    row: LogRow = {f"specific/{task}": share for task, share in zip(gated.tasks, shares, strict=True)}
    was_training = gated.training
    try:
        return {**row, "macs": float(expected_macs(gated.eval()))}
    finally:
        gated.train(was_training)


def budget_columns(controller: BudgetController, gated: GatedModel, report: dict[str, Any] | None) -> LogRow:
    """λ, cost and budget; a column a task where the budget is by task. What is not MACs says its unit."""
    costs = controller.look(gated) if report is None else report["after"]
    by_task = "network" not in costs
    row: LogRow = {"lambda": sum(controller.weights.values()) / len(controller.weights)}
    for name, limit in controller.limits.items():
        end = f"/{name}" if by_task else "" if controller.unit == "MACs" else f" ({controller.unit})"
        row |= {f"lambda{end}": controller.weights[name]} if by_task else {}
        row |= {f"cost{end}": costs[name], f"budget{end}": limit}
    return row


def note(row: LogRow) -> str:
    """What the progress bar says of an epoch: the main metrics and, with a budget, λ and cost over budget."""
    metrics = [f"{key[4:]} {row[key]:.3f}" for key in row if key.startswith("val/") and key.count("/") == 1]
    spent = [f"{key} {row[key] / row[key.replace('cost', 'budget')]:.2f}" for key in row if key.startswith("cost")]
    return " ".join([*metrics, *(f"λ {row[key]:.3g}" for key in row if key == "lambda"), *spent])


def is_better(row: LogRow, than: LogRow, tasks: Sequence[Task]) -> bool:
    """Whether an epoch's main metrics are better on average, each difference relative to the larger of the two."""

    def gain(task: Task) -> float:
        new, old = row[f"val/{task.name}"], than[f"val/{task.name}"]
        relative = (new - old) / (max(abs(new), abs(old)) or 1.0)
        return relative if task.kind.higher_is_better else -relative

    return mean(map(gain, tasks)) > 0
