"""What a step minimises: the losses of eq. 1 and 5, of a batch that several processes and parts have between them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gate2static.budget import BudgetController
from gate2static.gates import GatedModel, sparsity_hinge
from gate2static.tasks import Task
from gate2static.train.loop.batches import Batch
from gate2static.train.loop.network_run import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Weights = dict[str, float]
Means = dict[str, float]


def cut(batch: Batch, parts: int) -> list[Batch]:
    """A batch in parts of equal size, as far as that goes."""
    images, targets = batch
    pieces = {name: target.tensor_split(parts) for name, target in targets.items()}
    return [(x, {name: piece[i] for name, piece in pieces.items()}) for i, x in enumerate(images.tensor_split(parts))]


def shares(fabric: "Fabric", tasks: Sequence[Task], parts: Sequence[Batch]) -> tuple[list[Weights], Means]:
    """What share of the whole batch's valid values lies in each part here, by task; 1 over all parts and processes.

    A task's loss is the mean over its valid values, so with these weights the parts' losses add up to that of the whole
    batch. Also the means of the whole batch's valid targets, which some losses need.
    """
    names = [task.name for task in tasks]
    if len(parts) * fabric.world_size == 1:
        return [dict.fromkeys(names, 1.0)], {}
    table = torch.stack([torch.stack([_valid(task, targets[task.name]) for task in tasks]) for _, targets in parts])
    whole = fabric.all_reduce(table.sum(0).to(fabric.device), reduce_op="sum")
    assert isinstance(whole, Tensor)
    counts, sums = whole.cpu().unbind(1)
    counts = counts.clamp(min=1)
    weights = [dict(zip(names, row, strict=True)) for row in (table[:, :, 0] / counts).tolist()]
    return weights, dict(zip(names, (sums / counts).tolist(), strict=True))


def _valid(task: Task, target: Tensor) -> Tensor:
    """How many values of a target count in the task's loss, and their sum."""
    valid = task.kind.valid(target)
    # As float64, which counts exactly far beyond any batch, since not every backend adds up integers.
    return torch.stack([valid.sum().double(), target.where(valid, 0).sum().double()])


def losses(stage: Stage, outputs: dict[str, Tensor], targets: dict[str, Tensor], means: Means) -> dict[str, Tensor]:
    """Every task's loss L_t and, of a gated model, the sparsity loss (eq. 4)."""
    found = {t.name: t.loss(outputs[t.name], targets[t.name], means.get(t.name)) for t in stage.tasks}
    if isinstance(stage.model, GatedModel):
        found["sparsity"] = sparsity_hinge(stage.model, targets=stage.hinge_targets)
    return found


def total_loss(stage: Stage, controller: BudgetController | None, found: dict[str, Tensor], weights: Weights) -> Tensor:
    """Σ ω_t L_t (eq. 1) + λ_s hinge (eq. 5), each by its weight here; a task that trains alone has no ω_t."""
    alone = stage.kind == "single"
    terms = [(1.0 if alone else task.weight) * weights[task.name] * found[task.name] for task in stage.tasks]
    total = torch.stack(terms).sum()
    if isinstance(stage.model, GatedModel):
        if controller is None:
            penalty = stage.sparsity_weight * found["sparsity"]
        else:
            penalty = controller.penalty(stage.model, targets=stage.hinge_targets)
        total = total + weights["sparsity"] * penalty
    return total
