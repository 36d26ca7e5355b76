"""The measurement of one network: its row in `run.json`."""

from typing import TYPE_CHECKING, Literal

from gate2static.budget import BudgetReport
from gate2static.data import Splits
from gate2static.gates import GatedModel
from gate2static.prune import prune
from gate2static.recipe import Recipe
from gate2static.tasks import Task, delta_i, delta_mtl, eta, main_scores, relative_gains
from gate2static.train.evaluation import evaluate
from gate2static.train.loop.batches import Share, evaluation_loader, loaded
from gate2static.train.results import ResultRow, RunResult
from gate2static.train.variants import is_shared

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def add_row(
    result: RunResult,
    gated: GatedModel,
    *,
    name: str,
    checkpoints: tuple[str, ...],
    recipe: Recipe,
    tasks: tuple[Task, ...],
    splits: Splits,
    fabric: "Fabric",
    sparsity_weight: float | None = None,
    budget: BudgetReport | None = None,
    is_architecture: bool = False,
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
        splits: The data; `test` is measured.
        fabric: The processes and devices; every process measures its share of the images.
        sparsity_weight: λ_s of a gated network.
        budget: The budget of a gated network and the cost that it reached.
        is_architecture: Whether the network is of another architecture.

    Returns:
        The result with the new row.
    """
    static = prune(gated)
    training = recipe.training
    share = Share.of(fabric)
    # The size of a part in training, which fits in memory.
    size = training.gated.batch_size // (share.world_size * training.accumulate)
    loader = evaluation_loader(splits.test, size, share=share, workers=training.workers)
    scores = evaluate(static.to(fabric.device), loaded(loader), tasks)
    metrics = main_scores(scores, tasks)
    separate = next((row for row in result.rows if row.kind == "separate"), None)
    baseline = metrics if separate is None else separate.metrics
    of_baseline = scores if separate is None else separate.scores
    # Runs of older versions have no scores beside the main metrics.
    gains = relative_gains(scores, of_baseline, tasks) if of_baseline else {}
    is_comparable = any(gains.values())
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
    )
    return result.with_row(row)


def _kind(name: str) -> Literal["separate", "shared", "gated"]:
    if name == "separate":
        return "separate"
    return "shared" if is_shared(name) else "gated"
