"""Figure 3 of GatedMTL: each task's share of task-specific channels, and its share in the shared stream."""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gate2static.report import style

_MAX_LABELS = 56
"""The number of layers above which only every n-th name is written, because names would touch."""


@dataclass(frozen=True, kw_only=True)
class GatePattern:
    """A summary of one network's gates per unit.

    Attributes:
        tasks: The names of the T tasks.
        units: The names of the L gated units, input first.
        specific_share: The share of the unit's channels that the task takes from its own branch, (L, T) in [0, 1].
        contribution: The share of the channels in which the task has the largest mixing weight, (L, T) in [0, 1]. NaN
            where nothing reads the shared stream after the unit, so that its mixing weights have no meaning.
    """

    tasks: tuple[str, ...]
    units: tuple[str, ...]
    specific_share: np.ndarray
    contribution: np.ndarray


def gate_figure(pattern: GatePattern, title: str) -> Figure:
    """Draws the share of task-specific channels above the contribution to the shared stream, layer by layer."""
    layers = len(pattern.units)
    width_inch = min(16.0, max(7.0, 0.16 * layers * len(pattern.tasks)))
    figure = style.new_figure(width_inch, 6.4)
    with mpl.rc_context(style.RC):
        top, bottom = figure.subplots(2, 1, sharex=True)
        _grouped_bars(top, pattern)
        _stacked_bars(bottom, pattern)
        top.set_title("Channels a task takes from its own branch", loc="left", fontsize=10)
        top.set_ylabel("share of channels (%)")
        bottom.set_title("Whose feature weighs most in the shared stream", loc="left", fontsize=10)
        bottom.set_ylabel("share of channels (%)")
        bottom.set_xlabel("gated unit, input to output")
        step = -(-layers // _MAX_LABELS)
        labelled = range(0, layers, step)
        bottom.set_xticks(list(labelled), [pattern.units[i] for i in labelled], rotation=90, fontsize=8)
        bottom.set_xlim(-0.6, layers - 0.4)
        top_handles, top_labels = top.get_legend_handles_labels()
        bottom_handles, bottom_labels = bottom.get_legend_handles_labels()
        figure.legend(
            top_handles + bottom_handles,
            top_labels + bottom_labels,
            loc="outside upper right",
            ncols=int(width_inch // 1.6),
        )
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def _grouped_bars(axes: Axes, pattern: GatePattern) -> None:
    tasks = len(pattern.tasks)
    bar = 0.8 / tasks
    x = np.arange(len(pattern.units))
    for t, task in enumerate(pattern.tasks):
        offset = (t - (tasks - 1) / 2) * bar
        axes.bar(x + offset, 100 * pattern.specific_share[:, t], bar, label=task, **_look(t))
    axes.set_ylim(0, 100)


def _stacked_bars(axes: Axes, pattern: GatePattern) -> None:
    x = np.arange(len(pattern.units))
    bottom = np.zeros(len(pattern.units))
    for t in range(len(pattern.tasks)):
        height = 100 * pattern.contribution[:, t]
        axes.bar(x, height, 0.8, bottom=bottom, **_look(t))
        bottom = bottom + height
    # NaN in the sum marks units behind which nothing reads the shared stream.
    if len(unread := x[np.isnan(bottom)]):
        axes.bar(unread, 100, 0.8, color="#EEEEEE", label="nothing reads it")
    axes.set_ylim(0, 100)


def _look(task: int) -> dict[str, Any]:
    colour = style.TASK_COLOURS[task % len(style.TASK_COLOURS)]
    hatch = style.TASK_HATCHES[task % len(style.TASK_HATCHES)]
    return {"color": colour, "hatch": hatch}
