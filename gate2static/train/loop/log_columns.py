"""The columns of `log.csv`, and the comparison that selects the best epoch."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from gate2static.budget import BudgetController
from gate2static.gates import GatedModel, gate_shares
from gate2static.prune import expected_macs
from gate2static.tasks import Task
from gate2static.train.loop.log import LogRow


def metric_columns(scores: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]) -> LogRow:
    """Returns the metrics of an epoch: `val/<task>` is the main metric, `val/<task>/<metric>` any further one.

    Args:
        scores: Metrics by task and name, as of `evaluate`.
        tasks: The tasks to write.
    """
    row: LogRow = {f"val/{task.name}": scores[task.name][task.kind.metric_name] for task in tasks}
    for task in tasks:
        for name, value in scores[task.name].items():
            if name != task.kind.metric_name:
                row[f"val/{task.name}/{name}"] = value
    return row


def gate_columns(gated: GatedModel) -> LogRow:
    """Returns the gates' state: each task's share of task-specific channels over all units, and the MACs.

    The MACs are per image, of the static network that pruning would make now.
    """
    row: LogRow = {f"specific/{task}": share for task, share in gate_shares(gated).items()}
    was_training = gated.training
    try:
        row["macs"] = float(expected_macs(gated.eval()))
    finally:
        gated.train(was_training)
    return row


def budget_columns(controller: BudgetController, gated: GatedModel, report: dict[str, Any] | None) -> LogRow:
    """Returns λ, the cost and the budget, one column per task where the budget is by task.

    Column names carry the unit unless it is MACs.

    Args:
        controller: Steers λ to the budget.
        gated: The network in training.
        report: The projection's report, which has the final cost; None before the last epoch.
    """
    costs = controller.look(gated) if report is None else report["after"]
    by_task = "network" not in costs
    unit = "" if controller.unit == "MACs" else f" ({controller.unit})"
    row: LogRow = {"lambda": sum(controller.weights.values()) / len(controller.weights)}
    for name, limit in controller.limits.items():
        suffix = f"/{name}" if by_task else unit
        if by_task:
            row[f"lambda{suffix}"] = controller.weights[name]
        row[f"cost{suffix}"] = costs[name]
        row[f"budget{suffix}"] = limit
    return row


def note(row: LogRow) -> str:
    """Returns an epoch's summary in words: its number, the main metrics and, with a budget, λ and cost over budget."""
    words = [f"epoch {row['epoch']:.0f}:"]
    words += [f"{key[4:]} {row[key]:.3f}" for key in row if key.startswith("val/") and key.count("/") == 1]
    if "lambda" in row:
        words.append(f"λ {row['lambda']:.3g}")
    words += [f"{key} {row[key] / row[key.replace('cost', 'budget')]:.2f}" for key in row if key.startswith("cost")]
    return " ".join(words)


def is_better(row: LogRow, than: LogRow, tasks: Sequence[Task]) -> bool:
    """Returns whether an epoch's main metrics are better on average.

    The difference of each metric is relative to the larger of the two values.

    Args:
        row: The epoch to judge.
        than: The epoch to compare with.
        tasks: The tasks to average over.
    """

    def gain(task: Task) -> float:
        new = row[f"val/{task.name}"]
        old = than[f"val/{task.name}"]
        relative = (new - old) / (max(abs(new), abs(old)) or 1.0)
        return relative if task.kind.higher_is_better else -relative

    return mean(map(gain, tasks)) > 0
