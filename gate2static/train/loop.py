"""Training one network: the losses of eq. 1 and 5, epoch by epoch, from wherever its checkpoint left it."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gate2static.budget import BudgetController, project_to_budget
from gate2static.data import Splits
from gate2static.errors import TrainingError
from gate2static.gates import GatedModel, gate_decisions, sparsity_hinge
from gate2static.prune import expected_macs
from gate2static.tasks import main_scores
from gate2static.train import batches, random_state
from gate2static.train.evaluation import evaluate
from gate2static.train.log import FILE as LOG_FILE
from gate2static.train.log import LogRow, write_log
from gate2static.train.optimisers import build_optimisers, set_learning_rates
from gate2static.train.progress import TrainingProgress
from gate2static.train.stage import Position, Stage, advice, resume, save


def train_stage(stage: Stage, splits: Splits, *, device: torch.device, go_on: bool, progress: TrainingProgress) -> None:
    """Trains one network to its last epoch; its checkpoint and log lie in the stage's folder afterwards.

    Args:
        stage: The network and how to train it; its model ends up trained.
        splits: Trains on `train` and measures every epoch on `val`.
        device: Where to compute.
        go_on: Whether to start from the stage's checkpoint if there is one.
        progress: Where to show how far it is.

    Raises:
        BudgetError: No setting of the gates meets the recipe's budget.
        TrainingError: A loss or weight is no longer finite (the last checkpoint stays), or the disk is full.
        CheckpointError: The checkpoint to go on from cannot be read or is another recipe's.
    """
    # Each stage seeds anew, so it comes out the same whether or not the stages before it ran in this process.
    random_state.seed_everything(stage.recipe.seed)
    stage.model.to(device)
    optimisers = build_optimisers(stage.model, stage.settings)
    per_epoch = len(_order(stage, splits, 0))
    controller = _controller(stage, per_epoch)
    position = resume(stage, optimisers) if go_on and stage.checkpoint.exists() else Position()
    if controller is not None and position.budget:
        controller.load_state_dict(position.budget["controller"])
    done = position.epoch * per_epoch + position.step
    progress.start_stage(stage.name, steps=stage.settings.epochs * per_epoch, done=done, cost=stage.cost)
    while position.epoch < stage.settings.epochs:
        _train_epoch(stage, splits, position, optimisers, controller, device, progress)
        row = _close_epoch(stage, splits, position, optimisers, controller)
        progress.note(_note(row))
        save(stage, position, optimisers)
        write_log(stage.checkpoint.with_name(LOG_FILE), position.log)


def _controller(stage: Stage, per_epoch: int) -> BudgetController | None:
    """What steers λ_s, if there is a budget."""
    if stage.budget is None or not isinstance(stage.model, GatedModel):
        return None
    return BudgetController(
        stage.model,
        stage.budget,
        weight=stage.sparsity_weight,
        epochs=stage.settings.epochs,
        epoch_steps=per_epoch,
    )


def _note(row: LogRow) -> str:
    """What the progress bar says of an epoch: the metrics and, with a budget, λ and cost over budget."""
    metrics = [f"{key.partition('/')[2]} {row[key]:.3f}" for key in row if key.startswith("val/")]
    spent = [f"{key} {row[key] / row[key.replace('cost', 'budget')]:.2f}" for key in row if key.startswith("cost")]
    return " ".join([*metrics, *(f"λ {row[key]:.3g}" for key in row if key == "lambda"), *spent])


def _order(stage: Stage, splits: Splits, epoch: int) -> list[list[int]]:
    count = batches.length(splits.train)
    return batches.epoch_order(count, stage.settings.batch_size, seed=stage.recipe.seed, epoch=epoch)


def _train_epoch(
    stage: Stage,
    splits: Splits,
    position: Position,
    optimisers: dict[str, Optimizer],
    controller: BudgetController | None,
    device: torch.device,
    progress: TrainingProgress,
) -> None:
    """Runs the steps of an epoch that are left."""
    stage.model.train()
    order = _order(stage, splits, position.epoch)
    save_every = stage.recipe.training.checkpoint_steps
    for images, targets in batches.train_loader(splits.train, order, skip=position.step):
        done = (position.epoch + position.step / len(order)) / stage.settings.epochs
        set_learning_rates(optimisers, stage.settings, epoch=position.epoch, progress=done)
        if controller is not None and isinstance(stage.model, GatedModel):
            controller.step(stage.model)
            position.budget = {"controller": controller.state_dict()}
        targets = {name: target.to(device) for name, target in targets.items()}
        losses = _losses(stage, controller, images.to(device), targets)
        _note_losses(stage, position, losses, len(images))
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        losses["total"].backward()
        for optimiser in optimisers.values():
            optimiser.step()
        position.step += 1
        progress.advance(cost=stage.cost)
        if save_every and position.step % save_every == 0 and position.step < len(order):
            save(stage, position, optimisers)


def _losses(
    stage: Stage, controller: BudgetController | None, images: Tensor, targets: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Every task's loss L_t, the hinge (eq. 4) of a gated model, and `total`: Σ ω_t L_t (eq. 1) + λ_s hinge (eq. 5)."""
    outputs = stage.model(images)
    losses = {task.name: task.loss(outputs[task.name], targets[task.name]) for task in stage.tasks}
    total = torch.stack([task.weight * losses[task.name] for task in stage.tasks]).sum()
    if isinstance(stage.model, GatedModel):
        taus = {task.name: task.target for task in stage.tasks}
        losses["sparsity"] = sparsity_hinge(stage.model, targets=taus)
        if controller is None:
            total = total + stage.sparsity_weight * losses["sparsity"]
        else:
            total = total + controller.penalty(stage.model, targets=taus)
    return {**losses, "total": total}


def _note_losses(stage: Stage, position: Position, losses: dict[str, Tensor], count: int) -> None:
    """Adds a step's losses to the epoch's, before they can do harm: nothing that is not finite goes backwards."""
    values = torch.stack([loss.detach() for loss in losses.values()]).tolist()
    for name, value in zip(losses, values, strict=True):
        if not math.isfinite(value):
            raise TrainingError(
                f"{stage.name}: the loss of {name} is {value} in epoch {position.epoch + 1}, step {position.step + 1}; "
                f"{advice(stage)}"
            )
        position.sums[name] = position.sums.get(name, 0.0) + value * count
    position.sums["images"] = position.sums.get("images", 0) + count


def _close_epoch(
    stage: Stage,
    splits: Splits,
    position: Position,
    optimisers: dict[str, Any],
    controller: BudgetController | None,
) -> LogRow:
    """Measures the network, writes the epoch's row and moves on to the next epoch.

    The last epoch of a network with a budget ends with the projection, so what is measured and saved is what fits.
    """
    if position.epoch + 1 == stage.settings.epochs and stage.budget is not None and isinstance(stage.model, GatedModel):
        position.budget["report"] = project_to_budget(stage.model, stage.budget).model_dump(mode="json")
    images = position.sums.pop("images")
    row: LogRow = {"epoch": position.epoch + 1, "lr": optimisers["weights"].param_groups[0]["lr"]}
    row |= {f"loss/{name}": value / images for name, value in position.sums.items()}
    scores = evaluate(stage.model, batches.test_loader(splits.val, stage.settings.batch_size), stage.tasks)
    metrics = main_scores(scores, stage.tasks)
    row |= {f"val/{name}": value for name, value in metrics.items()}
    if isinstance(stage.model, GatedModel):
        row |= {f"specific/{task}": share for task, share in specific_shares(stage.model).items()}
        row["macs"] = _macs_now(stage.model)
        if controller is not None:
            row |= _budget_columns(controller, stage.model, position.budget.get("report"))
    position.log.append(row)
    signs = [1 if task.kind.higher_is_better else -1 for task in stage.tasks]
    score = sum(sign * value for sign, value in zip(signs, metrics.values(), strict=True)) / len(signs)
    if not position.best or score > position.best["score"]:
        position.best = {"epoch": row["epoch"], "score": score}
    position.epoch, position.step, position.sums = position.epoch + 1, 0, {}
    return row


def _budget_columns(controller: BudgetController, gated: GatedModel, report: dict[str, Any] | None) -> LogRow:
    """λ, cost and budget; a column a task where the budget is by task. What is not MACs says its unit."""
    costs = controller.look(gated) if report is None else report["after"]
    by_task = "network" not in costs
    row: LogRow = {"lambda": sum(controller.weights.values()) / len(controller.weights)}
    for name, limit in controller.limits.items():
        end = f"/{name}" if by_task else "" if controller.unit == "MACs" else f" ({controller.unit})"
        row |= {f"lambda{end}": controller.weights[name]} if by_task else {}
        row |= {f"cost{end}": costs[name], f"budget{end}": limit}
    return row


def specific_shares(gated: GatedModel) -> dict[str, float]:
    """The share of channels that each task takes from its own branch, over all units."""
    decisions = torch.cat(list(gate_decisions(gated).values()), dim=1)
    return dict(zip(gated.tasks, decisions.double().mean(dim=1).tolist(), strict=True))


def _macs_now(gated: GatedModel) -> float:
    """MACs an image of the static network that pruning would make now."""
    was_training = gated.training
    try:
        return float(expected_macs(gated.eval()))
    finally:
        gated.train(was_training)
