"""The front as one HTML page that opens offline: charts, and what one needs to go on with a point."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import gate2static
from gate2static.front.objectives import KINDS, Estimate
from gate2static.front.pareto import Front, Network, Point
from gate2static.front.records import Objective

# The unit of the drawing is about a pixel of a telephone, where letters must be readable; larger screens enlarge it.
_WIDTH, _HEIGHT = 400.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 10.0, 10.0, 40.0
_TICKS = 4


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a chart, in the drawing's unit.

    Attributes:
        index: The point's number on the page.
        x: Its place from the left.
        y: Its place from the top.
        bars: Its error bars, as lines (x1, y1, x2, y2).
        on_front: Whether it is on the front.
        label: Its description for screen readers.
    """

    index: int
    x: float
    y: float
    bars: tuple[tuple[float, float, float, float], ...]
    on_front: bool
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One objective against another.

    Attributes:
        x_title: The title of the horizontal axis.
        y_title: The title of the vertical axis.
        x_ticks: Places and texts on the horizontal axis.
        y_ticks: Places and texts on the vertical axis.
        marks: The points; those on the front come last, which puts them above the others.
        shared: The place of the shared network; empty without one.
        zero: The place of separate networks on the vertical axis; None where it is outside.
    """

    x_title: str
    y_title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[Mark, ...]
    shared: tuple[tuple[float, float], ...]
    zero: float | None


def render_front(front: Front) -> str:
    """Returns the page."""
    environment = Environment(
        loader=PackageLoader("gate2static.front", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    unit_lists = _UnitLists()
    charts = [_chart(front, x, y) for x, y in _pairs(front)]
    details = [_details(front, point, unit_lists) for point in front.points]
    return environment.get_template("page.html.j2").render(
        front=front,
        charts=charts,
        kinds=KINDS,
        size=(_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM),
        version=gate2static.__version__,
        details=_in_script(details),
        unit_lists=_in_script(unit_lists.lists),
    )


def _in_script(value: Any) -> str:
    """Returns a value for a script, where nothing is escaped and only `<` could end it."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")


def _pairs(front: Front) -> list[tuple[Objective, Objective]]:
    """Returns the pairs of objectives to draw: every gain against every cost that matters."""
    gains = [name for name in front.objectives if KINDS[name].higher_is_better]
    costs = [name for name in front.objectives if not KINDS[name].higher_is_better]
    drawn: list[Objective] = [name for name in KINDS if all(name in point.estimates for point in front.points)]
    gains = gains or [name for name in drawn if KINDS[name].higher_is_better][:1]
    costs = costs or [name for name in drawn if not KINDS[name].higher_is_better][:1]
    return [(cost, gain) for gain in gains for cost in costs]


def _chart(front: Front, x: Objective, y: Objective) -> Chart:
    estimates = [(point.estimates[x], point.estimates[y]) for point in front.points]
    shared = [(front.baseline[x], front.baseline[y])] if x in front.baseline and y in front.baseline else []
    horizontal = _Axis([pair[0] for pair in estimates + shared], x, start=_LEFT, end=_WIDTH - _RIGHT)
    vertical = _Axis([pair[1] for pair in estimates + shared], y, start=_HEIGHT - _BOTTOM, end=_TOP)
    marks = []
    for index, (point, (across, up)) in enumerate(zip(front.points, estimates, strict=True)):
        here = (horizontal.place(across.mean), vertical.place(up.mean))
        bars = []
        if across.std is not None:
            ends = [horizontal.place(across.mean + sign * across.std) for sign in (-1, 1)]
            bars.append((ends[0], here[1], ends[1], here[1]))
        if up.std is not None:
            ends = [vertical.place(up.mean + sign * up.std) for sign in (-1, 1)]
            bars.append((here[0], ends[0], here[0], ends[1]))
        label = f"{KINDS[x].title} {across.text(KINDS[x])}, {KINDS[y].title} {up.text(KINDS[y])}: {point.words}"
        mark = Mark(index=index, x=here[0], y=here[1], bars=tuple(bars), on_front=point.on_front, label=label)
        marks.append(mark)
    zero = vertical.place(0.0)
    return Chart(
        x_title=f"{KINDS[x].title} {_arrow(x)}",
        y_title=f"{KINDS[y].title} {_arrow(y)}",
        x_ticks=horizontal.ticks,
        y_ticks=vertical.ticks,
        marks=tuple(sorted(marks, key=lambda mark: mark.on_front)),
        shared=tuple((horizontal.place(across.mean), vertical.place(up.mean)) for across, up in shared),
        zero=zero if KINDS[y].higher_is_better and _TOP <= zero <= _HEIGHT - _BOTTOM else None,
    )


class _Axis:
    """An axis that shows estimates with their error bars.

    Args:
        estimates: What it must show.
        objective: What it measures.
        start: The place of its low end.
        end: The place of its high end.
    """

    def __init__(self, estimates: Sequence[Estimate], objective: Objective, *, start: float, end: float) -> None:
        kind = KINDS[objective]
        low = kind.scale * min(estimate.mean - (estimate.std or 0.0) for estimate in estimates)
        high = kind.scale * max(estimate.mean + (estimate.std or 0.0) for estimate in estimates)
        margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        self._low, self._high = low - margin, high + margin
        self._start, self._end = start, end
        self._scale = kind.scale
        step = _step((self._high - self._low) / _TICKS)
        first = math.ceil(self._low / step)
        last = math.floor(self._high / step)
        digits = max(0, -math.floor(math.log10(step)))
        places = [number * step for number in range(first, last + 1)]
        self.ticks = tuple((self._at(place), f"{place:.{digits}f}") for place in places)

    def place(self, value: float) -> float:
        """Returns the place of an objective's value on the drawing."""
        return self._at(self._scale * value)

    def _at(self, number: float) -> float:
        share = (number - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)


def _step(wanted: float) -> float:
    """Returns the round number nearest above a wanted distance of ticks."""
    power: float = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted)


class _UnitLists:
    """The units of the networks on a page: a thousand networks have the same ones."""

    def __init__(self) -> None:
        self.lists: list[list[str]] = []

    def number_of(self, units: list[str]) -> int:
        """Returns the place of a network's units among the lists."""
        if units not in self.lists:
            self.lists.append(units)
        return self.lists.index(units)


def _gates(point: Point, unit_lists: _UnitLists) -> dict[str, Any] | None:
    """Returns each task's own share of every unit in per cent, the mean over seeds; None where there are no gates."""
    patterns = [network.record.gates for network in point.networks if network.record.gates]
    if not patterns:
        return None
    units = list(patterns[0])
    shares = {}
    for task in patterns[0][units[0]]:
        of_units = [[pattern[unit][task] for pattern in patterns if task in pattern.get(unit, {})] for unit in units]
        shares[task] = [round(100 * mean(values)) if values else 0 for values in of_units]
    return {"units": unit_lists.number_of(units), "shares": shares}


def _details(front: Front, point: Point, unit_lists: _UnitLists) -> dict[str, Any]:
    """Returns what the page shows of a point that is looked at."""
    objectives = [[KINDS[name].title, found.text(KINDS[name])] for name, found in point.estimates.items()]
    metrics = [
        [f"{task.name}: {task.metric} {'↑' if task.higher_is_better else '↓'}", _number(point.metrics[task.name])]
        for task in front.tasks
        if task.name in point.metrics
    ]
    return {
        "front": point.on_front,
        "words": point.words or "the recipe as it is",
        "rows": [*objectives, *metrics],
        "gates": _gates(point, unit_lists),
        "networks": [
            {"seed": network.record.seed, "folder": str(network.folder), "command": _command(network)}
            for network in point.networks
        ],
    }


def _command(network: Network) -> str:
    """Returns the commands that prune and export a network."""
    static = shlex.quote(str(network.folder / "static"))
    return f"gate2static prune {shlex.quote(str(network.checkpoint))} -o {static} && gate2static export {static}"


def _number(found: Estimate) -> str:
    value = f"{found.mean:#.4g}"
    return value if found.std is None else f"{value} ± {found.std:#.2g}"


def _arrow(objective: Objective) -> str:
    return "↑" if KINDS[objective].higher_is_better else "↓"
