"""What a step minimises: the losses of eq. 1 and 5, of a batch that several processes and parts have between them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gate2static.budget import BudgetController
from gate2static.data.contract import IGNORE
from gate2static.gates import GatedModel, sparsity_hinge
from gate2static.tasks import Task
from gate2static.train.batches import Batch
from gate2static.train.stage import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Weights = dict[str, float]


def cut(batch: Batch, parts: int) -> list[Batch]:
    """A batch in parts of equal size, as far as that goes."""
    images, targets = batch
    pieces = {name: target.tensor_split(parts) for name, target in targets.items()}
    return [(x, {name: piece[i] for name, piece in pieces.items()}) for i, x in enumerate(images.tensor_split(parts))]


def shares(fabric: "Fabric", tasks: Sequence[Task], parts: Sequence[Batch]) -> list[Weights]:
    """What share of the whole batch's valid values lies in each part here, by task; 1 over all parts and processes.

    A task's loss is the mean over its valid values, so with these weights the parts' losses add up to that of the whole
    batch. The one exception is saliency, which weighs its pixels by a part's share of background.
    """
    if len(parts) * fabric.world_size == 1:
        return [{task.name: 1.0 for task in tasks}]
    counts = torch.tensor([[_valid_values(task, targets[task.name]) for task in tasks] for _, targets in parts])
    # As float64, which counts exactly far beyond any batch, since not every backend adds up integers.
    whole = fabric.all_reduce(counts.sum(0).double().to(fabric.device), reduce_op="sum")
    assert isinstance(whole, Tensor)
    rows = (counts / whole.cpu().clamp(min=1)).tolist()
    return [dict(zip((task.name for task in tasks), row, strict=True)) for row in rows]


def losses(stage: Stage, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every task's loss L_t and, of a gated model, the sparsity loss (eq. 4)."""
    found = {task.name: task.loss(outputs[task.name], targets[task.name]) for task in stage.tasks}
    if isinstance(stage.model, GatedModel):
        found["sparsity"] = sparsity_hinge(stage.model, targets=stage.hinge_targets)
    return found


def total_loss(stage: Stage, controller: BudgetController | None, found: dict[str, Tensor], weights: Weights) -> Tensor:
    """Σ ω_t L_t (eq. 1) + λ_s hinge (eq. 5), each by its weight here."""
    total = torch.stack([task.weight * weights[task.name] * found[task.name] for task in stage.tasks]).sum()
    if isinstance(stage.model, GatedModel):
        if controller is None:
            penalty = stage.sparsity_weight * found["sparsity"]
        else:
            penalty = controller.penalty(stage.model, targets=stage.hinge_targets)
        total = total + weights["sparsity"] * penalty
    return total


def _valid_values(task: Task, target: Tensor) -> int:
    """How many values of a target count in the task's loss."""
    if task.kind.labelled:
        return int((target != IGNORE).sum()) if task.kind.dense else target.numel()
    return len(task.kind.prepare(target, target)[0])
