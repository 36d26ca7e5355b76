"""The content of a report as plain values, from which the pictures, the table and the page are made."""

from dataclasses import dataclass, field

from gate2static.report.figures.conflict import ConflictCurves
from gate2static.report.figures.curves import LearningCurves
from gate2static.report.figures.gates import GatePattern
from gate2static.report.figures.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class TaskColumn:
    """One task's column of the result table.

    Attributes:
        task: The task's name.
        metric: The metric's name.
        higher_is_better: Whether a higher value is better.
    """

    task: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison of two networks' outputs for one task.

    Attributes:
        comparison: The two networks and the dtype.
        task: The task whose outputs are compared.
        max_rel: The largest difference relative to the output's scale; None if it is not finite.
        tolerance: The largest allowed `max_rel`.
        passed: Whether the difference is within the tolerance.
        max_abs: The largest absolute difference; None if it is not finite or was not measured.
        cosine: The cosine similarity of the two outputs; None if it was not measured.
        reason: The reason for the tolerance.
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
        name: The name of the network's row.
        backend: The backend that ran the network.
        precision: `fp32`, `fp16` or `int8`.
        percentiles_ms: By percentage, the latency in ms that this share of the runs stays below.
        variation: The standard deviation over the mean.
        runs: The number of timed runs.
    """

    name: str
    backend: str
    precision: str
    percentiles_ms: dict[int, float]
    variation: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One network's row of the result table; None stands for values that do not exist yet.

    Attributes:
        name: The network's folder in the run: `separate`, `shared` or `gated-<λ>`.
        kind: `separate`, `shared` or `gated`.
        metrics: The main metric by task.
        delta_mtl_percent: Δ_MTL (eq. 6) in per cent.
        delta_i_percent: Δ_I, over all metrics, in per cent.
        eta_percent: η̂, the metrics that are no worse than with single-task networks, in per cent.
        macs: Multiply-accumulates per sample, heads included; a mean over seeds need not be a whole number.
        parameters: The number of parameters.
        latency_ms: The median time of one forward pass in ms.
        latency_ratios: By row name, this network's latency over that row's latency, paired round by round.
        pattern: The gates' state per unit.
        checks: The comparisons that verification made.
        budget: Cost over budget, the budget and the final λ, in words; empty without a budget.
        seeds: The number of runs that the values are means of.
        spread: The standard deviations over these runs, each in the place of its mean; None for one run.
        against_single: By task, the gain over the single-task network with its interval and p-value, in words; empty
            where nothing was tested.
        safety: One sentence per thing to know about how the network was made safe.
    """

    name: str
    kind: str
    metrics: dict[str, float] | None = None
    delta_mtl_percent: float | None = None
    delta_i_percent: float | None = None
    eta_percent: float | None = None
    macs: float | None = None
    parameters: float | None = None
    latency_ms: float | None = None
    latency_ratios: dict[str, float] = field(default_factory=dict)
    pattern: GatePattern | None = None
    checks: tuple[Check, ...] = ()
    budget: str = ""
    seeds: int = 1
    spread: "TableRow | None" = None
    against_single: tuple[str, ...] = ()
    safety: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of a run's report.

    Attributes:
        title: The run's name.
        columns: One column per task.
        rows: One row per network: separate, shared, then gated in the order of λ.
        takeaway: One sentence on which network to deploy; empty where nothing can be compared yet.
        facts: What the run was: label -> value, such as "seed" -> "0".
        curves: The validation metrics of every network's training.
        predictions: What networks predict for a few test images; empty without dense tasks.
        conflicts: The conflict that was measured in the training of networks that tasks share.
        latency_setting: Device, backend, batch size and protocol of the latencies; empty without latencies.
        latencies: Every measurement, on every backend.
        cautions: One sentence per reason not to deploy a network, such as one that is slower than separate networks.
        missing: One sentence per missing part of the report, with the command that makes it.
    """

    title: str
    columns: tuple[TaskColumn, ...]
    rows: tuple[TableRow, ...]
    takeaway: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    curves: tuple[LearningCurves, ...] = ()
    predictions: tuple[Predictions, ...] = ()
    conflicts: tuple[ConflictCurves, ...] = ()
    latency_setting: str = ""
    latencies: tuple[Timing, ...] = ()
    cautions: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
