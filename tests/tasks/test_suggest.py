"""Targets that are suggested from what tasks lose by sharing."""

from dataclasses import replace

import pytest

from gate2static.errors import TrainingError
from gate2static.tasks import KINDS, Task, suggest_targets

SEG = Task(name="seg", kind=KINDS["semantic"], channels=40)
DEPTH = Task(name="depth", kind=KINDS["depth"], channels=1)
NORMALS = Task(name="normals", kind=KINDS["normals"], channels=3)
TASKS = (SEG, DEPTH, NORMALS)
# Table 1 of the paper: normals lose 21 % by sharing, the others nothing.
SEPARATE = {"seg": 41.70, "depth": 0.582, "normals": 18.89}
SHARED = {"seg": 41.83, "depth": 0.582, "normals": 22.84}


def targets(separate: dict[str, float], shared: dict[str, float]) -> dict[str, float]:
    return {name: found.target for name, found in suggest_targets(separate, shared, TASKS).items()}


def test_only_the_task_that_loses_by_sharing_gets_a_target() -> None:
    assert targets(SEPARATE, SHARED) == {"seg": 0, "depth": 0, "normals": 1}
    assert suggest_targets(SEPARATE, SHARED, TASKS)["normals"].drop == pytest.approx(0.209, abs=1e-3)


def test_a_larger_drop_gets_a_larger_target() -> None:
    shared = {"seg": 41.70 * 0.95, "depth": 0.582 * 1.02, "normals": 18.89 * 1.10}
    assert targets(SEPARATE, shared) == {"seg": 0.5, "depth": 0.2, "normals": 1}


def test_where_all_gain_or_differ_by_noise_no_task_gets_a_target() -> None:
    shared = {"seg": 43.0, "depth": 0.582 * 1.001, "normals": 18.0}
    assert set(targets(SEPARATE, shared).values()) == {0}


def test_a_task_that_fills_the_shared_branch_and_loses_by_it_shares_too_much() -> None:
    filled = suggest_targets(SEPARATE, SHARED, TASKS, contributions={"seg": 0.5, "depth": 0.1, "normals": 0.4})
    assert [name for name, found in filled.items() if found.overshares] == ["normals"]
    modest = suggest_targets(SEPARATE, SHARED, TASKS, contributions={"seg": 0.6, "depth": 0.1, "normals": 0.3})
    assert not any(found.overshares for found in modest.values())
    assert not any(found.overshares for found in suggest_targets(SEPARATE, SHARED, TASKS).values())


def test_a_missing_metric_is_named() -> None:
    with pytest.raises(TrainingError, match="no metric for edges"):
        suggest_targets(SEPARATE, SHARED, (replace(SEG, name="edges"),))
