"""The table of `gate2static evaluate`: a column per network, a line per task and metric."""

from rich.table import Table

from gate2static.verify.task_metrics import Evaluation


def evaluation_table(evaluation: Evaluation) -> Table:
    """Returns the main metric of every task of every network, and its drop against the first network's."""
    split = f"{evaluation.images} images of the {evaluation.split} split"
    table = Table("network", "form", title="Task metrics", caption=f"{split}; drops are relative to the first network")
    for task, metric in evaluation.metrics.items():
        arrow = "↑" if evaluation.higher_is_better[task] else "↓"
        table.add_column(f"{task}: {metric} {arrow}", justify="right")
        table.add_column("drop", justify="right")
    for network in evaluation.networks:
        cells = []
        for task, metric in evaluation.metrics.items():
            if task not in network.scores:
                cells += ["–", "–"]
                continue
            drop = network.drops[task]
            cells += [f"{network.scores[task][metric]:.4f}", "–" if drop is None else f"{100 * drop:+.2f} %"]
        table.add_row(network.name, network.form, *cells)
    return table
