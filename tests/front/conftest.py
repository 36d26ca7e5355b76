"""A search of three points with two seeds each, written as `search` writes it."""

from pathlib import Path
from typing import Any

import pytest

from gate2static.front.records import (
    SEARCH_FILE,
    Measured,
    NetworkRecord,
    SearchInfo,
    TaskMetric,
    TrialRecord,
)

TASKS = (
    TaskMetric(name="seg", metric="mIoU", higher_is_better=True),
    TaskMetric(name="depth", metric="error", higher_is_better=False),
)


def network(row: str, seed: int, gain: float, macs: int, latency_ms: float | None = None) -> NetworkRecord:
    separate = Measured(metrics={"seg": 0.5, "depth": 2.0}, delta_mtl=0.0, worst_task=0.0, macs=1000, parameters=10)
    shared = Measured(metrics={"seg": 0.4, "depth": 2.1}, delta_mtl=-0.1, worst_task=-0.2, macs=500, parameters=5)
    metrics = {"seg": 0.5 * (1 + gain), "depth": 2.0 * (1 - gain)}
    return NetworkRecord(
        seed=seed,
        run=f"seed-{seed}",
        checkpoint=f"{row}/ckpt.pt",
        gated=Measured(metrics=metrics, delta_mtl=gain, worst_task=gain - 0.01, macs=macs, parameters=7),
        separate=separate,
        shared=shared,
        latency_ms=latency_ms,
    )


def write(folder: Path, trials: dict[str, list[NetworkRecord]], objectives: Any = ("delta_mtl", "macs")) -> Path:
    latency = "timed on onnxruntime" if "latency_ms" in objectives else ""
    info = SearchInfo(name="board", recipe={}, objectives=objectives, latency=latency)
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    (folder / SEARCH_FILE).write_text(info.model_dump_json())
    for slot, (row, networks) in enumerate(trials.items()):
        point = {"sparsity_weight": slot, "gating.group_size": "layer"}
        trial = TrialRecord(slot=slot, point=point, row=row, tasks=TASKS, networks=tuple(networks))
        # Without the sync of `save`, which takes longer than all else.
        (folder / "trials" / f"{slot:05}.json").write_text(trial.model_dump_json())
    return folder


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """`good` and `small` are on the front; `beaten` is worse than `good` in both."""
    trials = {
        "gated-good": [network("gated-good", 0, 0.04, 800), network("gated-good", 1, 0.02, 820)],
        "gated-beaten": [network("gated-beaten", 0, 0.01, 900), network("gated-beaten", 1, 0.01, 900)],
        "gated-small": [network("gated-small", 0, -0.02, 600), network("gated-small", 1, 0.0, 600)],
    }
    return write(tmp_path / "run", trials)
