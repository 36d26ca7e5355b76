"""A report's content, made up."""

import numpy as np
import pytest

from gate2static.report.content import Check, Content, TableRow, TaskColumn
from gate2static.report.figures.gates import GatePattern


def pattern(units: int, tasks: tuple[str, ...]) -> GatePattern:
    rng = np.random.default_rng(0)
    contribution = rng.random((units, len(tasks)))
    return GatePattern(
        tasks=tasks,
        units=tuple(f"layer{i}.conv" for i in range(units)),
        specific_share=rng.random((units, len(tasks))),
        contribution=contribution / contribution.sum(1, keepdims=True),
    )


@pytest.fixture
def content() -> Content:
    tasks = ("left", "right", "mask")
    check = Check(
        comparison="gated / static, float64",
        task="left",
        max_abs=1e-13,
        max_rel=2e-14,
        cosine=1.0,
        tolerance=1e-9,
        passed=True,
    )
    metrics = {"left": 0.95, "right": 0.94, "mask": 0.9}
    return Content(
        title="digits",
        columns=tuple(TaskColumn(task=t, metric="accuracy", higher_is_better=True) for t in tasks),
        rows=(
            TableRow(
                name="separate",
                kind="separate",
                metrics=metrics,
                delta_mtl_percent=0.0,
                macs=122_000_000,
                parameters=810_000,
                latency_ms=3.0,
                checks=(check,),
            ),
            TableRow(
                name="shared",
                kind="shared",
                metrics=metrics,
                delta_mtl_percent=-2.5,
                macs=41_000_000,
                parameters=270_000,
                latency_ms=1.5,
            ),
            TableRow(
                name="gated-0.05",
                kind="gated",
                metrics=metrics,
                delta_mtl_percent=0.4,
                macs=62_000_000,
                parameters=400_000,
                latency_ms=2.25,
                latency_ratios={"shared": 1.5, "separate": 0.75},
                pattern=pattern(20, tasks),
            ),
            TableRow(name="gated-0.1", kind="gated"),
        ),
        latency_setting="ONNX Runtime, CPU, batch size 1",
        missing=("gated-0.1 is not trained yet: run `gate2static sweep`",),
    )
