"""Figure 3 of GatedMTL: each task's share of task-specific channels, and its share in the shared stream."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gate2static.gates import GatedModel, gate_shares, gated_model
from gate2static.report.figures import style
from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_MOST_NAMES = 60
"""The number of units above which only stages are named, because names would touch."""
_WIDEST_INCH = 16.0
_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 10}


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

    @classmethod
    def of_units(
        cls, tasks: Sequence[str], shares: Mapping[str, Sequence[float]], contributions: Mapping[str, Sequence[float]]
    ) -> Self:
        """Returns the pattern of units in the order of data flow.

        Args:
            tasks: The names of the T tasks.
            shares: Unit -> per task, the share of its channels that are its own.
            contributions: Unit -> per task, the share of channels in which it has the largest mixing weight.
        """
        share = np.array(list(shares.values()))  # (units, tasks)
        contribution = np.array([contributions[unit] for unit in shares])  # (units, tasks)
        takes_shared = (share < 1).any(axis=1)
        # After the last unit that takes a shared channel, nothing reads the shared stream.
        last_reader = int(np.flatnonzero(takes_shared)[-1]) if takes_shared.any() else 0
        contribution[last_reader:] = np.nan  # not 0, because a mix that nothing reads is not a choice
        return cls(tasks=tuple(tasks), units=tuple(shares), specific_share=share, contribution=contribution)


def plot_gates(gated: GatedModel, *, title: str = "gates") -> "Figure":
    """Draws the gates as they are decided now: each task's own channels, and its share in the shared stream.

    Args:
        gated: The gated model, or a wrapper of it.
        title: The title of the figure.

    Returns:
        A matplotlib figure: save it by `savefig`, or give it to a logger's `add_figure`.

    Raises:
        GateError: The argument is no gated model.
        MissingDependencyError: matplotlib is not installed.
    """
    gated = gated_model(gated)
    shares = {unit: list(by_task.values()) for unit, by_task in gate_shares(gated, per_unit=True).items()}
    contributions = {unit: gate.contributions() for unit, gate in gated.gates.items()}
    return gate_figure(GatePattern.of_units(gated.tasks, shares, contributions), title)


def gate_figure(pattern: GatePattern, title: str) -> "Figure":
    """Draws two heat maps with a line per task and a column per unit, input first.

    Above, dark cells are channels of the task's own branch; tasks that are white in a column share there.
    Below, dark cells are channels of the shared stream in which the task's feature weighs most.
    """
    layers = len(pattern.units)
    width_inch = min(_WIDEST_INCH, max(7.0, 0.22 * layers + 2.0))
    names_inch = 0.075 * max(map(len, _labels(pattern.units).values()))
    figure = style.new_figure(width_inch, 1.5 + 0.6 * len(pattern.tasks) + names_inch)
    with style.context({"axes.grid": False}):
        top, bottom = figure.subplots(2, 1, sharex=True)
        cells = _heat_map(top, pattern.specific_share, pattern)
        top.set_title("Channels of a task's own (white: shared)", **_TITLE)
        _heat_map(bottom, pattern.contribution, pattern)
        bottom.set_title("Shared ones where it weighs most (grey: unread)", **_TITLE)
        labels = _labels(pattern.units)
        bottom.set_xticks(list(labels), list(labels.values()), rotation=90, fontsize=8)
        per_cent = require("matplotlib.ticker").PercentFormatter(1.0)
        # On the left, where it is seen without scrolling.
        figure.colorbar(cells, ax=[top, bottom], location="left", format=per_cent, shrink=0.8, aspect=30)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def _heat_map(axes: "Axes", shares: np.ndarray, pattern: GatePattern) -> "AxesImage":
    """Draws shares, (L, T) in [0, 1] or NaN, with lines where another stage of the network begins."""
    colours = require("matplotlib").colormaps["Blues"].with_extremes(bad="#DDDDDD")
    masked = np.ma.masked_invalid(shares.T)  # (tasks, units)
    cells = axes.imshow(masked, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(pattern.tasks)), pattern.tasks)
    axes.set_yticks(np.arange(0.5, len(pattern.tasks) - 1), minor=True)
    axes.grid(visible=True, which="minor", axis="y", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    for first in _stages(pattern.units)[1:]:
        axes.axvline(first - 0.5, color="#444444", linewidth=0.8)
    return cells


def _labels(units: Sequence[str]) -> dict[int, str]:
    """Returns the names below the columns: every unit's, or the stages' where units are too many."""
    if len(units) <= _MOST_NAMES:
        return dict(enumerate(units))
    return {first: _stage(units[first]) for first in _stages(units)}


def _stages(units: Sequence[str]) -> list[int]:
    """Returns the first unit of every stage of the network; a stage is what names begin with, such as `layer1`."""
    return [i for i, unit in enumerate(units) if i == 0 or _stage(unit) != _stage(units[i - 1])]


def _stage(unit: str) -> str:
    return re.split(r"[._]", unit, maxsplit=1)[0]
