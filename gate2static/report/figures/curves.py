"""Learning curves: the main metric of each task on the validation split, epoch by epoch, network by network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gate2static.errors import CheckpointError
from gate2static.report.figures import style
from gate2static.report.figures.log_file import read_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "log.csv"
_LINES = ("-", "--", ":", "-.")
"""Line styles: the palette comes round for the ninth network."""
_ABREAST = 3


@dataclass(frozen=True, kw_only=True)
class LearningCurves:
    """The validation metrics of one network's training.

    Attributes:
        name: The network's name.
        curves: Task -> the main metric after each epoch, (epochs,).
    """

    name: str
    curves: Mapping[str, NDArray[np.float64]]


def read_curves(row_dir: Path, name: str, tasks: Sequence[str]) -> LearningCurves:
    """Reads the logs of a network, or of the single-task networks together.

    Args:
        row_dir: The row's folder, with a `log.csv`, or with one in a folder per task.
        name: The network's name.
        tasks: The run's tasks.

    Raises:
        CheckpointError: A log is not one of ours.
    """
    curves = {}
    for task in tasks:
        path = row_dir / task / FILE if name == "separate" else row_dir / FILE
        if not path.is_file():
            continue  # a run of which only results were copied
        columns = read_columns(path, what="log of a training")
        if f"val/{task}" not in columns:
            raise CheckpointError(f"{path}: found no column val/{task}; remove the file, or train again")
        curves[task] = columns[f"val/{task}"]
    return LearningCurves(name=name, curves=curves)


def curves_figure(networks: Sequence[LearningCurves], metrics: Mapping[str, str]) -> "Figure":
    """Draws one panel per task and one line per network.

    Args:
        networks: The networks to draw.
        metrics: Task -> the name of its metric, with an arrow in the better direction.
    """
    columns = min(_ABREAST, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = style.new_figure(3.7 * columns, 2.9 * rows + 0.16 * len(networks) / 3)
    with style.context():
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (task, metric) in zip(panels, metrics.items(), strict=False):
            for index, one in enumerate(networks):
                values = one.curves.get(task, np.empty(0))
                axes.plot(
                    np.arange(1, len(values) + 1),
                    values,
                    color=style.TASK_COLOURS[index % len(style.TASK_COLOURS)],
                    linestyle=_LINES[index // len(style.TASK_COLOURS) % len(_LINES)],
                    linewidth=1.4,
                    marker="." if len(values) == 1 else None,
                    label=one.name,
                )
            axes.set_title(f"{task}: {metric}", loc="left", fontsize=10)
            axes.set_xlabel("epoch")
            axes.locator_params(axis="x", integer=True)
        for axes in panels[len(metrics) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=8)
    return figure
