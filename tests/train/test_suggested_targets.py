"""`suggest-targets` on a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gate2static.errors import CheckpointError, TrainingError
from gate2static.train import RunResult, suggest_for_run

pytestmark = pytest.mark.slow

Run = tuple[Path, RunResult]


def test_a_run_suggests_a_target_for_every_task(run: Callable[..., Any], whole_run: Run, tmp_path: Path) -> None:
    file = tmp_path / "targets.json"
    table = run("suggest-targets", whole_run[0], "--json", file).stdout
    found = json.loads(file.read_text())
    assert {"left", "mask"} <= set(table.split())
    assert set(found["left"]) == {"drop", "target", "overshares"}
    separate, shared, _ = whole_run[1].rows
    for task, metric in separate.metrics.items():
        assert found[task]["drop"] == pytest.approx((metric - shared.metrics[task]) / metric)


def test_what_fills_the_shared_branch_is_read_from_the_first_gated_network(whole_run: Run, tmp_path: Path) -> None:
    run_dir, result = whole_run
    separate, shared, gated = result.rows
    losing = shared.model_copy(update={"metrics": {task: value / 2 for task, value in separate.metrics.items()}})
    result.model_copy(update={"rows": (separate, losing, gated)}).save(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        suggest_for_run(tmp_path)
    target = tmp_path / gated.checkpoints[0]
    target.parent.mkdir()
    target.write_bytes((run_dir / gated.checkpoints[0]).read_bytes())
    found = suggest_for_run(tmp_path)
    assert [suggestion.target for suggestion in found.values()] == [1.0, 1.0]
    assert sum(suggestion.overshares for suggestion in found.values()) <= 1


def test_a_run_that_is_not_far_enough_says_how_to_go_on(whole_run: Run, tmp_path: Path) -> None:
    result = whole_run[1]
    result.model_copy(update={"rows": result.rows[:1]}).save(tmp_path)
    with pytest.raises(TrainingError, match="has no row for shared yet; continue with `train --resume`"):
        suggest_for_run(tmp_path)
