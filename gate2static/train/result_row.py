"""The measurement of one network: its row in `run.json`."""

from typing import Literal

from gate2static.budget import BudgetReport
from gate2static.gates import GatedModel, gate_shares
from gate2static.prune import prune
from gate2static.recipe import Recipe
from gate2static.tasks import Task, delta_i, delta_mtl, eta, main_scores, relative_gains
from gate2static.train.results import ResultRow, RunResult
from gate2static.train.safety.comparison import Comparison
from gate2static.train.safety.outcome import Safety
from gate2static.train.variants import is_shared


def add_row(
    result: RunResult,
    gated: GatedModel,
    *,
    name: str,
    checkpoints: tuple[str, ...],
    recipe: Recipe,
    tasks: tuple[Task, ...],
    comparison: Comparison,
    sparsity_weight: float | None = None,
    budget: BudgetReport | None = None,
    is_architecture: bool = False,
    safety: Safety | None = None,
) -> RunResult:
    """Measures a trained network on the test split and adds its row to the result.

    The measurement runs the pruned static network, which computes the same function in a fraction of the time.

    Args:
        result: The rows so far; the row called `separate` is the baseline of Δ_MTL.
        gated: The network; baselines are gated networks too (`gated_baseline`).
        name: `separate`, `shared`, or the network's folder, such as `shared-pcgrad` or `gated-0.05`.
        checkpoints: The network's checkpoints, relative to the run's folder.
        recipe: The recipe that the network was trained with.
        tasks: The tasks to measure.
        comparison: Measures networks on the test split.
        sparsity_weight: λ_s of a gated network.
        budget: The budget of a gated network and the cost that it reached.
        is_architecture: Whether the network is of another architecture.
        safety: How the network was made safe; None for others.

    Returns:
        The result with the new row.
    """
    static = prune(gated)
    scores, measured = comparison.measure(static)
    metrics = main_scores(scores, tasks)
    separate = next((row for row in result.rows if row.kind == "separate"), None)
    baseline = metrics if separate is None else separate.metrics
    of_baseline = scores if separate is None else separate.scores
    # Runs of older versions have no scores beside the main metrics.
    gains = relative_gains(scores, of_baseline, tasks) if of_baseline else {}
    is_comparable = any(gains.values())
    tests = {} if name == "separate" else comparison.tests(measured)
    of_their_own = () if safety is None else safety.opened
    row = ResultRow(
        name=name,
        kind="architecture" if is_architecture else _kind(name),
        sparsity_weight=sparsity_weight,
        seed=recipe.seed,
        checkpoints=checkpoints,
        metrics=metrics,
        scores=scores,
        # Too short a training leaves metrics of 0, which is no reason to lose what is trained.
        delta_mtl=None if 0 in baseline.values() else delta_mtl(metrics, baseline, tasks),
        delta_i=delta_i(gains) if is_comparable else None,
        eta=eta(gains) if is_comparable else None,
        macs=static.manifest.macs["static"],
        parameters=static.manifest.parameters["static"],
        budget=budget,
        tests={task: of_task for task, of_task in tests.items() if task not in of_their_own},
        safety=safety,
        gates={} if is_architecture or _kind(name) != "gated" else gate_shares(gated, per_unit=True),
    )
    return result.with_row(row)


def _kind(name: str) -> Literal["separate", "shared", "gated"]:
    if name == "separate":
        return "separate"
    return "shared" if is_shared(name) else "gated"
