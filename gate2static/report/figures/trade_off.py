"""Figure 2 of GatedMTL: the tasks' gain against the network's cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from gate2static.report.figures import style
from gate2static.runtimes.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_LOOKS: dict[str, dict[str, Any]] = {
    "separate": {"marker": "s", "color": style.TASK_COLOURS[5], "label": "separate networks (STL)"},
    "shared": {"marker": "D", "color": style.TASK_COLOURS[2], "label": "one shared network (MTL)"},
    "architecture": {"marker": "P", "color": style.TASK_COLOURS[3], "label": "other architectures"},
    "gated": {"marker": "o", "color": style.TASK_COLOURS[0], "label": "gated, pruned to static"},
    "l1": {"marker": "^", "color": style.TASK_COLOURS[1], "label": "the same with plain L1"},
}
_OFFSETS_POINTS = ((0, 12), (0, -19), (14, 8), (14, -14), (-14, 8), (-14, -14), (0, 26), (0, -33), (0, 40), (0, -47))


_BASELINES = ("separate", "shared")
"""The kinds without names beside their points: the legend says which network it is."""
_LINE_STEPS = 40
_LEGENDS_ABREAST = 3


@dataclass(frozen=True, kw_only=True)
class TradeOffPoint:
    """One network in the trade-off.

    Attributes:
        name: The text beside the point.
        kind: `separate`, `shared`, `architecture`, `gated`, or `l1` for a gated network that was trained with the plain
            L1 penalty of table 6.
        cost: The network's cost in the unit of the horizontal axis.
        delta_mtl_percent: Δ_MTL (eq. 6) in per cent; higher is better.
        deviation_percent: The standard deviation of Δ_MTL over seeds; 0 for one seed.
        cost_deviation: The standard deviation of the cost over seeds; 0 for one seed.
    """

    name: str
    kind: str
    cost: float
    delta_mtl_percent: float
    deviation_percent: float = 0.0
    cost_deviation: float = 0.0


def pareto_front(points: Sequence[TradeOffPoint]) -> list[TradeOffPoint]:
    """Returns the points that no other point equals or beats in both cost and gain, by rising cost."""
    front: list[TradeOffPoint] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.delta_mtl_percent)):
        if not front or point.delta_mtl_percent > front[-1].delta_mtl_percent:
            front.append(point)
    return front


def tradeoff_figure(points: Sequence[TradeOffPoint], cost_label: str, title: str) -> "Figure":
    """Draws Δ_MTL against cost, with the Pareto front of all networks; up and left is better."""
    # Small, so that its words can be read where a telephone shows it whole.
    figure = style.new_figure(4.6, 3.8)
    with style.context({"axes.grid.axis": "both"}):
        axes = figure.subplots()
        for kind, look in _LOOKS.items():
            of_kind = sorted((p for p in points if p.kind == kind), key=lambda p: p.cost)
            if of_kind:
                costs = [p.cost for p in of_kind]
                gains = [p.delta_mtl_percent for p in of_kind]
                axes.plot(costs, gains, linestyle="none", markersize=8, **look)
                upright = [p.deviation_percent for p in of_kind]
                across = [p.cost_deviation for p in of_kind]
                axes.errorbar(
                    costs,
                    gains,
                    # Bars of no length would show as caps.
                    yerr=upright if any(upright) else None,
                    xerr=across if any(across) else None,
                    fmt="none",
                    ecolor=look["color"],
                    capsize=3,
                )
        front = pareto_front(points)
        axes.step(
            [p.cost for p in front],
            [p.delta_mtl_percent for p in front],
            where="post",
            color="#666666",
            linewidth=1.2,
            zorder=1,
            label="best at its cost or less",
        )
        axes.axhline(0.0, color="#666666", linewidth=0.8, linestyle="--", zorder=0)
        axes.margins(0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel(cost_label)
        axes.set_ylabel(r"$\Delta_\mathrm{MTL}$ (%)")
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        entries = len({p.kind for p in points}) + 1
        figure.legend(loc="outside lower center", ncols=entries if entries <= _LEGENDS_ABREAST else 2, fontsize=9)
        name_points(axes, [p for p in points if p.kind not in _BASELINES], points)
    return figure


def name_points(axes: "Axes", named: Sequence[TradeOffPoint], points: Sequence[TradeOffPoint]) -> None:
    """Writes each name where it covers the fewest points and other names, and least of the Pareto front.

    A few places around its point are tried.
    """
    figure = axes.figure
    box = require("matplotlib.transforms").Bbox.from_extents
    canvas: FigureCanvasAgg = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure.get_figure(root=True))
    canvas.draw()  # the positions of points are known only after a draw
    occupied: list[Bbox] = []
    for point in points:
        x, y = axes.transData.transform((point.cost, point.delta_mtl_percent))
        # From the point to the end of its bars, in pixels.
        across, upright = (
            axes.transData.transform(
                (point.cost + point.cost_deviation, point.delta_mtl_percent + point.deviation_percent)
            )
            - (x, y)
        )
        occupied += [
            box(x - 9, y - 9, x + 9, y + 9),
            box(x - 5, y - upright, x + 5, y + upright),
            box(x - across, y - 5, x + across, y + 5),
        ]
    # From left to right, so that a name makes room for the next one.
    named = sorted(named, key=lambda p: p.cost)
    for before, after in pairwise(pareto_front(points)):
        places = (
            (before.cost, before.delta_mtl_percent),
            (after.cost, before.delta_mtl_percent),
            (after.cost, after.delta_mtl_percent),
        )
        for start, end in pairwise([axes.transData.transform(place) for place in places]):
            line = (start + (end - start) * step / _LINE_STEPS for step in range(_LINE_STEPS))
            occupied += [box(x - 1, y - 1, x + 1, y + 1) for x, y in line]
    for point in named:
        label = axes.annotate(
            point.name,
            (point.cost, point.delta_mtl_percent),
            xytext=_OFFSETS_POINTS[0],
            textcoords="offset points",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#666666", "linewidth": 0.7, "shrinkA": 0},
        )
        occupied.append(_place(label, occupied, axes.bbox, canvas))


def _place(label: "Annotation", occupied: "Sequence[Bbox]", inside: "Bbox", canvas: "FigureCanvasAgg") -> "Bbox":
    best: tuple[int, Bbox, tuple[int, int]] | None = None
    for offset in _OFFSETS_POINTS:
        box = _moved(label, offset, canvas)
        overlaps = sum(box.overlaps(other) for other in occupied) + (not _within(box, inside))
        if best is None or overlaps < best[0]:
            best = (overlaps, box, offset)
    assert best is not None
    return _moved(label, best[2], canvas)


def _moved(label: "Annotation", offset: tuple[int, int], canvas: "FigureCanvasAgg") -> "Bbox":
    side: Literal["left", "center", "right"] = "center" if offset[0] == 0 else "left" if offset[0] > 0 else "right"
    label.set_horizontalalignment(side)
    label.xyann = offset
    label.update_positions(canvas.get_renderer())
    # Without the arrow, which an annotation's own extent has.
    extent: Bbox = require("matplotlib.text").Text.get_window_extent(label, canvas.get_renderer())
    return extent


def _within(box: "Bbox", inside: "Bbox") -> bool:
    return bool(box.x0 >= inside.x0 and box.x1 <= inside.x1 and box.y0 >= inside.y0 and box.y1 <= inside.y1)
