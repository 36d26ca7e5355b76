from dataclasses import replace

import pytest

from gate2static.errors import TrainingError
from gate2static.tasks import KINDS, Task, delta_mtl, mean_rank

HIGHER = Task(name="seg", kind=KINDS["mask"], channels=1)
LOWER = Task(name="depth", kind=replace(KINDS["mask"], higher_is_better=False), channels=1)
TASKS = (HIGHER, LOWER)


def test_delta_mtl_is_equation_6() -> None:
    # +10 % where higher is better, and -20 % of an error where lower is better, which is a gain: (0.1 + 0.2) / 2.
    assert delta_mtl({"seg": 0.55, "depth": 0.4}, {"seg": 0.5, "depth": 0.5}, TASKS) == pytest.approx(0.15)
    assert delta_mtl({"seg": 0.45, "depth": 0.6}, {"seg": 0.5, "depth": 0.5}, TASKS) == pytest.approx(-0.15)


def test_delta_mtl_reproduces_a_row_of_the_papers_table_1() -> None:
    names = ("seg", "depth", "normals")
    tasks = (HIGHER, LOWER, replace(LOWER, name="normals"))
    separate = dict(zip(names, (41.70, 0.582, 18.89), strict=True))
    shared = dict(zip(names, (41.83, 0.582, 22.84), strict=True))
    assert 100 * delta_mtl(shared, separate, tasks) == pytest.approx(-6.86, abs=0.02)


def test_the_baseline_itself_scores_zero() -> None:
    metrics = {"seg": 0.3, "depth": 0.7}
    assert delta_mtl(metrics, metrics, TASKS) == 0


def test_a_baseline_of_zero_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"single-task IoU of seg is 0.*train the single-task networks longer"):
        delta_mtl({"seg": 0.5, "depth": 1}, {"seg": 0.0, "depth": 1}, TASKS)


def test_a_missing_metric_is_named() -> None:
    with pytest.raises(TrainingError, match="no metric for depth"):
        delta_mtl({"seg": 0.5}, {"seg": 0.5, "depth": 1}, TASKS)


def test_mean_rank_respects_direction_and_shares_ties() -> None:
    rows = {
        "a": {"seg": 0.9, "depth": 0.5},
        "b": {"seg": 0.8, "depth": 0.4},
        "c": {"seg": 0.8, "depth": 0.6},
    }
    assert mean_rank(rows, TASKS) == {"a": 1.5, "b": 1.75, "c": 2.75}
