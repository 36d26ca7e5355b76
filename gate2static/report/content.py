"""What a report shows, as plain values; the pictures, the table and the page are made from this and nothing else."""

from dataclasses import dataclass, field

from gate2static.report.gate_figure import GatePattern


@dataclass(frozen=True, kw_only=True)
class TaskColumn:
    """One task's column of the result table.

    Attributes:
        task: the task's name.
        metric: what is measured, as a reader knows it.
        higher_is_better: the direction in which the metric improves.
    """

    task: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison that verification made for one task.

    Attributes:
        comparison: which two networks, in which dtype.
        task: whose output.
        max_rel: largest difference relative to the output's scale; None if it is not finite.
        tolerance: what `max_rel` may be at most.
        passed: whether the comparison held.
        max_abs: largest absolute difference; None if it is not finite or only the relative one was measured.
        cosine: cosine similarity of the two outputs; None if it was not measured.
        reason: why that much is allowed.
    """

    comparison: str
    task: str
    max_rel: float | None
    tolerance: float
    passed: bool
    max_abs: float | None = None
    cosine: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The latency of one network on one backend.

    Attributes:
        name: the row's name.
        backend: what ran it.
        precision: `fp32`, `fp16` or `int8`.
        percentiles_ms: latency in ms by per cent of the runs that stay below it.
        variation: standard deviation over mean.
        runs: how many runs were timed.
    """

    name: str
    backend: str
    precision: str
    percentiles_ms: dict[int, float]
    variation: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of the run; None stands for what has not been made or measured yet.

    Attributes:
        name: folder of the row: `separate`, `shared` or `gated-<λ>`.
        kind: `separate`, `shared` or `gated`.
        metrics: per task.
        delta_mtl_percent: Δ_MTL (eq. 6) in per cent.
        macs: multiply-accumulates for one sample, heads included.
        parameters: number of parameters.
        latency_ms: median time of one forward pass.
        latency_ratios: the same over the latency of the row named by the key, paired round by round.
        pattern: gates per unit.
        checks: what verification compared.
        budget: cost over budget, the budget and where λ ended, in words; empty without a budget.
    """

    name: str
    kind: str
    metrics: dict[str, float] | None = None
    delta_mtl_percent: float | None = None
    macs: int | None = None
    parameters: int | None = None
    latency_ms: float | None = None
    latency_ratios: dict[str, float] = field(default_factory=dict)
    pattern: GatePattern | None = None
    checks: tuple[Check, ...] = ()
    budget: str = ""


@dataclass(frozen=True, kw_only=True)
class Content:
    """A run, ready to be shown.

    Attributes:
        title: name of the run.
        columns: one a task.
        rows: separate, shared, then gated by falling cost.
        latency_setting: device, backend, batch size and protocol of the latencies; empty if none was measured.
        latencies: every measurement, on every backend.
        missing: sentences on what the page cannot show, each with the command that makes it.
    """

    title: str
    columns: tuple[TaskColumn, ...]
    rows: tuple[Row, ...]
    latency_setting: str = ""
    latencies: tuple[Timing, ...] = ()
    missing: tuple[str, ...] = ()
