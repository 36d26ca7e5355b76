"""The report's pictures: bars, labels that do not overlap, the same bytes twice."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from gate2static.report.figures.conflict import ConflictCurves, conflict_figure, moving_average
from gate2static.report.figures.gates import GatePattern, gate_figure
from gate2static.report.figures.style import png_bytes
from gate2static.report.figures.trade_off import TradeOffPoint, pareto_front, tradeoff_figure


def _pattern(units, tasks):
    share = np.linspace(0, 1, units * tasks).reshape(units, tasks)
    return GatePattern(
        tasks=tuple(f"task{t}" for t in range(tasks)),
        units=tuple(f"unit{i}" for i in range(units)),
        specific_share=share,
        contribution=np.full((units, tasks), 1 / tasks),
    )


@pytest.mark.parametrize(("units", "tasks"), [(1, 1), (3, 2), (19, 3), (300, 5)])
def test_gates_are_a_cell_per_unit_and_task(units, tasks):
    pattern = _pattern(units, tasks)
    top, bottom, _ = gate_figure(pattern, "title").axes
    np.testing.assert_allclose(top.images[0].get_array(), pattern.specific_share.T)
    np.testing.assert_allclose(bottom.images[0].get_array(), pattern.contribution.T)
    assert [label.get_text() for label in top.get_yticklabels()] == list(pattern.tasks)


def test_a_shared_stream_that_nothing_reads_is_no_choice():
    pattern = _pattern(4, 2)
    pattern.contribution[3] = np.nan
    bottom = gate_figure(pattern, "title").axes[1]
    assert bottom.images[0].get_array().mask.tolist() == [[False, False, False, True]] * 2


def test_long_networks_name_their_stages_and_draw_lines_between_them():
    pattern = replace(_pattern(120, 2), units=tuple(f"layer{1 + i // 40}_{i}_conv" for i in range(120)))
    _, bottom, _ = gate_figure(pattern, "title").axes
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["layer1", "layer2", "layer3"]
    assert [line.get_xdata()[0] for line in bottom.lines] == [39.5, 79.5]


def test_trade_off_names_do_not_cover_each_other_when_points_are_close():
    points = [TradeOffPoint(name=f"λ = {i}", kind="gated", cost=50 + 0.01 * i, delta_mtl_percent=0.5) for i in range(4)]
    points.append(TradeOffPoint(name="separate", kind="separate", cost=120, delta_mtl_percent=0))
    figure = tradeoff_figure(points, "cost", "title")
    texts = figure.axes[0].texts
    boxes = [Text.get_window_extent(text) for text in texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def _point(name, cost, gain, **values):
    return TradeOffPoint(name=name, kind="gated", cost=cost, delta_mtl_percent=gain, **values)


def test_the_front_is_of_networks_that_no_other_beats():
    points = [_point("a", 5, 1), _point("b", 3, -1), _point("c", 4, -2), _point("d", 5, 0), _point("e", 9, 1)]
    assert [point.name for point in pareto_front(points)] == ["b", "a"]


def test_trade_offs_over_seeds_have_bars_in_both_directions_and_their_front():
    points = [_point("a", 5, 1, deviation_percent=0.5, cost_deviation=0.25), _point("b", 3, -1)]
    (axes,) = tradeoff_figure(points, "cost", "title").axes
    (bars,) = axes.containers
    across, upright = (collection.get_segments() for collection in bars.lines[2])
    np.testing.assert_allclose(across[1], [[4.75, 1], [5.25, 1]])
    np.testing.assert_allclose(upright[1], [[5, 0.5], [5, 1.5]])
    front = next(line for line in axes.lines if line.get_label() == "best at its cost or less")
    assert front.get_xdata().tolist() == [3, 5]


def test_the_same_figure_gives_the_same_bytes():
    first, second = (png_bytes(gate_figure(_pattern(5, 3), "title")) for _ in range(2))
    assert first == second
    assert imread(BytesIO(first)).std() > 0.1, "not a blank picture"


def _curves(name, steps, **values):
    arrays = {measure: np.array(numbers, dtype=float) for measure, numbers in values.items()}
    return ConflictCurves(name=name, steps=np.array(steps, dtype=float), values=arrays)


def test_conflict_is_drawn_relative_to_the_baseline_step_by_step():
    shared = _curves("shared", [0, 10, 20], gds=[0.5, 0.5, 0.25])
    other = _curves("shared-mgda", [10, 20, 30], gds=[0.75, 0.5, 1.0])
    (axes,) = conflict_figure([other], "title", baseline=shared).axes
    line = axes.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [10, 20])
    np.testing.assert_array_equal(line.get_ydata(), [0.25, 0.25])
    assert line.get_label() == "shared-mgda"


def test_conflict_has_a_panel_per_measure_and_a_look_per_method():
    values = {"gds": [0.5, 0.0], "gms": [1.0, 0.5], "fd": [0.7, 0.8]}
    figure = conflict_figure([_curves(f"m{i}", [0, 10], **values) for i in range(20)], "title")
    assert [axes.get_ylabel() for axes in figure.axes] == ["GDS", "GMS", "FD"]
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 20


def test_a_moving_average_runs_over_a_tenth_of_the_curve():
    values = np.random.default_rng(0).random(40)
    averaged = moving_average(values)
    np.testing.assert_allclose(averaged[20], values[18:23].mean())
    np.testing.assert_allclose(averaged[0], values[:3].mean())
    np.testing.assert_allclose(averaged[-1], values[-3:].mean())
