"""The grid of measured times: interpolation between its points and beyond them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gate2static.latency.grid import Grid

GRID = Grid(kind="k", axes=((10, 100, 1000), (4, 64)), ms=(1.0, 2.0, 3.0, 7.0, 20.0, 50.0))


def test_interpolation_is_exact_at_every_grid_point() -> None:
    points = [(a, b) for a in GRID.axes[0] for b in GRID.axes[1]]
    assert [GRID.at(point) for point in points] == pytest.approx(GRID.ms, rel=1e-12)


@given(st.integers(1, 3000), st.integers(1, 300), st.integers(0, 500), st.integers(0, 100))
def test_more_work_never_costs_less(a: int, b: int, more_a: int, more_b: int) -> None:
    assert GRID.at((a, b)) <= GRID.at((a + more_a, b + more_b)) * (1 + 1e-12)


def test_between_points_time_is_linear_in_logarithms() -> None:
    line = Grid(kind="k", axes=((10, 1000),), ms=(1.0, 100.0))
    assert line.at((100,)) == pytest.approx(10.0)


def test_below_the_grid_the_launch_is_what_costs_and_above_it_the_work() -> None:
    assert GRID.at((1, 1)) == pytest.approx(1.0)
    assert GRID.at((2000, 128)) == pytest.approx(4 * 50.0)


@pytest.mark.parametrize(
    ("axes", "ms", "message"),
    [
        (((1, 2),), (1.0,), "1 times for 2 grid points"),
        (((2, 1),), (1.0, 2.0), "ascending positive sizes"),
        (((0, 1),), (1.0, 2.0), "ascending positive sizes"),
        (((1, 2),), (1.0, -2.0), "positive and finite"),
        (((1, 2),), (1.0, float("nan")), "positive and finite"),
    ],
)
def test_a_grid_that_does_not_fit_together_is_refused(
    axes: tuple[tuple[int, ...], ...], ms: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Grid(kind="k", axes=axes, ms=ms)
