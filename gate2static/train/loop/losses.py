"""The loss of a step (eq. 1 and 5), for a batch that is divided among processes and parts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gate2static.architectures import Architecture
from gate2static.budget import BudgetController
from gate2static.gates import GatedModel, sparsity_hinge
from gate2static.tasks import Task
from gate2static.train.loop.batches import Batch
from gate2static.train.loop.network_run import NetworkRun

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Weights = dict[str, float]
"""By task, the share of the whole batch's valid values that lies in one part."""
Means = dict[str, float]
"""By task, the mean of the whole batch's valid targets."""


def cut(batch: Batch, parts: int) -> list[Batch]:
    """Divides a batch into parts of equal size, or sizes that differ by one image."""
    images, targets = batch
    # `tensor_split` and not `split`, because parts may differ by one image.
    target_parts = {name: target.tensor_split(parts) for name, target in targets.items()}
    batches = []
    for index, image_part in enumerate(images.tensor_split(parts)):
        batches.append((image_part, {name: pieces[index] for name, pieces in target_parts.items()}))
    return batches


def shares(fabric: "Fabric", tasks: Sequence[Task], parts: Sequence[Batch]) -> tuple[list[Weights], Means]:
    """Returns the weight of each part's loss, and the means that some losses need.

    A task's loss is the mean over its valid values. With these weights the losses of all parts in all processes add up
    to the loss of the whole batch.

    Args:
        fabric: The processes and devices.
        tasks: The tasks to weigh.
        parts: This process's parts of the batch.

    Returns:
        Weights by task, one dict per part, and the means of the whole batch's valid targets by task. The means are
        empty where there is one part in one process.
    """
    names = [task.name for task in tasks]
    if len(parts) * fabric.world_size == 1:
        return [dict.fromkeys(names, 1.0)], {}
    table = torch.stack([_valid_table(tasks, targets) for _, targets in parts])  # (parts, tasks, [count, sum])
    # (tasks, [count, sum]) of the whole batch
    whole = fabric.all_reduce(table.sum(0).to(fabric.device), reduce_op="sum")
    assert isinstance(whole, Tensor)
    counts, sums = whole.cpu().unbind(1)
    counts = counts.clamp(min=1)  # a task without valid values has the weight 0 in every part
    part_shares = (table[:, :, 0] / counts).tolist()
    means = (sums / counts).tolist()
    return [dict(zip(names, row, strict=True)) for row in part_shares], dict(zip(names, means, strict=True))


def _valid_table(tasks: Sequence[Task], targets: dict[str, Tensor]) -> Tensor:
    """Returns the number of valid target values and their sum, one row per task: (tasks, 2)."""
    return torch.stack([_valid_count_and_sum(task, targets[task.name]) for task in tasks])


def _valid_count_and_sum(task: Task, target: Tensor) -> Tensor:
    valid = task.kind.valid(target)
    # As float64, which counts exactly far beyond any batch, since not every backend adds up integers.
    return torch.stack([valid.sum().double(), target.where(valid, 0).sum().double()])


def losses(
    run: NetworkRun,
    outputs: dict[str, Tensor],
    targets: dict[str, Tensor],
    means: Means,
    taught: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Returns every task's loss L_t and, where they apply, those of sparsity (eq. 4) and distillation, by name.

    Args:
        run: The training whose tasks and hinge targets apply.
        outputs: The heads' raw outputs by task.
        targets: The data set's targets by task.
        means: The means of the whole batch's valid targets; a task without one uses the mean of its own targets.
        taught: The raw outputs of the single-task networks by task; None without distillation.
    """
    loss = {t.name: t.loss(outputs[t.name], targets[t.name], means.get(t.name)) for t in run.tasks}
    if isinstance(run.model, GatedModel):
        loss["sparsity"] = sparsity_hinge(run.model, targets=run.hinge_targets)
    if taught is not None:
        distances = [task.weight * task.distance(outputs[task.name], taught[task.name]) for task in run.tasks]
        loss["distillation"] = torch.stack(distances).sum()
    return loss


def task_terms(run: NetworkRun, loss: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Returns the terms ω_t L_t of eq. 1 by task, scalars; single-task training leaves out ω_t.

    Args:
        run: The training whose tasks apply.
        loss: Losses by name, as of `losses`.
        weights: The share that this part has in each loss.
    """
    is_alone = run.kind == "single"
    return {task.name: (1.0 if is_alone else task.weight) * weights[task.name] * loss[task.name] for task in run.tasks}


def other_terms(
    run: NetworkRun, controller: BudgetController | None, loss: Mapping[str, Tensor], weights: Weights
) -> Tensor | None:
    """Returns λ_s hinge (eq. 5) + distillation + what an architecture adds, a scalar; None where there is nothing.

    Where gates have `GateOptimiser`, that optimiser knows λ_s, and the hinge is only logged.

    Args:
        run: The training whose λ_s applies.
        controller: Steers λ_s instead, where there is a budget.
        loss: Losses by name, as of `losses`.
        weights: The share that this part has in each loss.
    """
    total: Tensor | None = None
    if isinstance(run.model, Architecture) and (added := run.model.penalty()) is not None:
        total = weights["sparsity"] * added
    if "distillation" in loss:
        term = run.recipe.training.distillation * weights["distillation"] * loss["distillation"]
        total = term if total is None else total + term
    if isinstance(run.model, GatedModel) and not run.gates_know_sparsity:
        if controller is None:
            penalty = run.sparsity_weight * loss["sparsity"]
        else:
            penalty = controller.penalty(run.model, targets=run.hinge_targets)
        term = weights["sparsity"] * penalty
        total = term if total is None else total + term
    return total
