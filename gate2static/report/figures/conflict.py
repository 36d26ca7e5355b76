"""Figures 3 to 5 of Robust Analysis: how the tasks' conflict changes in training, method by method."""

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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "conflict.csv"
MEASURES = {
    "gds": "direction similarity (GDS)",
    "gms": "magnitude similarity (GMS)",
    "fd": "feature disentanglement (FD)",
}
_WINDOW = 0.1
"""The share of a curve that its moving average runs over, as in the paper."""
_LINES = ("-", "--", ":", "-.")
"""Line styles: the palette comes round for the ninth method."""


@dataclass(frozen=True, kw_only=True)
class ConflictCurves:
    """The conflict that was measured in one network's training.

    Attributes:
        name: The network's name.
        steps: The steps in which conflict was measured, (M,).
        values: Measure -> its values, (M,); a measure that was not taken is left out.
    """

    name: str
    steps: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]


def read_conflict(path: Path, name: str) -> ConflictCurves:
    """Reads a network's `conflict.csv`.

    Args:
        path: The file.
        name: The network's name.

    Raises:
        CheckpointError: The file is not one of ours.
    """
    columns = read_columns(path, what="log of conflict")
    if "step" not in columns:
        raise CheckpointError(f"{path}: no log of conflict: it has no column step; remove it, or train again")
    values = {key: columns[key] for key in MEASURES if key in columns}
    return ConflictCurves(name=name, steps=columns["step"], values=values)


def conflict_figure(
    curves: Sequence[ConflictCurves], title: str, *, baseline: ConflictCurves | None = None
) -> "Figure":
    """Draws one panel per measure and one line per network: moving averages over a tenth of the training.

    Args:
        curves: The networks to draw.
        title: The picture's title.
        baseline: The network whose values are subtracted, step by step; None draws the values themselves.
    """
    measures = [key for key in MEASURES if any(key in one.values for one in curves)]
    figure = style.new_figure(3.7 * len(measures), 3.6 + 0.16 * len(curves) / 3)
    with style.context():
        panels = figure.subplots(1, len(measures), squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            _draw(axes, curves, measure, baseline)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def _draw(axes: "Axes", curves: Sequence[ConflictCurves], measure: str, baseline: ConflictCurves | None) -> None:
    for index, one in enumerate(curves):
        steps, values = one.steps, one.values.get(measure, np.full(len(one.steps), np.nan))
        if baseline is not None:
            steps, here, there = np.intersect1d(steps, baseline.steps, return_indices=True)
            values = values[here] - baseline.values[measure][there]
        axes.plot(
            steps,
            moving_average(values),
            color=style.TASK_COLOURS[index % len(style.TASK_COLOURS)],
            linestyle=_LINES[index // len(style.TASK_COLOURS) % len(_LINES)],
            linewidth=1.4,
            label=one.name,
        )
    if baseline is not None:
        axes.axhline(0.0, color="#666666", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_title(MEASURES[measure], loc="left", fontsize=10)
    axes.set_ylabel(measure.upper() if baseline is None else f"{measure.upper()} - that of {baseline.name}")
    axes.set_xlabel("step")


def moving_average(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the means over a tenth of the curve around each value, (M,) -> (M,); at the ends, over what is there."""
    half = round(_WINDOW * len(values)) // 2
    positions = np.arange(len(values))
    first = np.maximum(positions - half, 0)
    last = np.minimum(positions + half + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means
