"""A row of `run.json`: how good and how large the static network of one gated network is."""

from typing import TYPE_CHECKING

from gate2static.budget import BudgetReport
from gate2static.data import Splits
from gate2static.gates import GatedModel
from gate2static.prune import prune
from gate2static.recipe import Recipe
from gate2static.tasks import Task, delta_mtl, main_scores
from gate2static.train.loop.batches import Share, evaluation_loader, loaded
from gate2static.train.loop.evaluation import evaluate
from gate2static.train.results import Row, RunResult

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
) -> RunResult:
    """Measures a trained network on the test split and adds its row.

    It is measured as the static network that pruning makes, which computes the same function in a fraction of the time.

    Args:
        result: The rows so far; the one called `separate` is the baseline of Δ_MTL.
        gated: The network; the baselines come as gated networks too (`gated_baseline`).
        name: `separate`, `shared` or the gated network's folder.
        checkpoints: Where it comes from, relative to the run's folder.
        recipe: What it was trained by.
        tasks: The tasks to measure.
        splits: Measured on `test`.
        fabric: Where to compute; every process measures its share of the images.
        sparsity_weight: λ_s of a gated network.
        budget: What was asked of it and what it costs.
    """
    static = prune(gated)
    share, training = Share.of(fabric), recipe.training
    size = training.gated.batch_size // (share.world_size * training.accumulate)  # what trained fits
    loader = evaluation_loader(splits.test, size, share=share, workers=training.workers)
    scores = evaluate(static.to(fabric.device), loaded(loader), tasks)
    metrics = main_scores(scores, tasks)
    baseline = next((row.metrics for row in result.rows if row.kind == "separate"), metrics)
    row = Row(
        name=name,
        kind="separate" if name == "separate" else "shared" if name == "shared" else "gated",
        sparsity_weight=sparsity_weight,
        seed=recipe.seed,
        checkpoints=checkpoints,
        metrics=metrics,
        scores=scores,
        delta_mtl=delta_mtl(metrics, baseline, tasks),
        macs=static.manifest.macs["static"],
        parameters=static.manifest.parameters["static"],
        budget=budget,
    )
    return result.with_row(row)
