"""Training one network: the losses of eq. 1 and 5, epoch by epoch, from wherever its checkpoint left it."""

from typing import TYPE_CHECKING

from gate2static.budget import project_to_budget
from gate2static.data import Splits
from gate2static.gates import GatedModel
from gate2static.train.loop import batches, random_state
from gate2static.train.loop.evaluation import evaluate
from gate2static.train.loop.log import FILE as LOG_FILE
from gate2static.train.loop.log import LogRow, write_log
from gate2static.train.loop.log_columns import budget_columns, gate_columns, is_better, metric_columns, note
from gate2static.train.loop.network_run import Position, Stage, check_weights, resume, save
from gate2static.train.loop.optimisers import set_learning_rates
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.loop.step import Training, begin
from gate2static.train.processes.devices import on_first_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train_stage(stage: Stage, splits: Splits, *, fabric: "Fabric", go_on: bool, progress: TrainingProgress) -> None:
    """Trains one network to its last epoch; its checkpoint and log lie in the stage's folder afterwards.

    Every process of a distributed run calls it.

    Args:
        stage: The network and how to train it; its model ends up trained.
        splits: Trains on `train` and measures every epoch on `val`.
        fabric: The processes and devices, launched.
        go_on: Whether to start from the stage's checkpoint if there is one.
        progress: Where to show how far it is.

    Raises:
        BudgetError: No setting of the gates meets the recipe's budget.
        RecipeError: A process would have no image in some step.
        TrainingError: A loss or weight is no longer finite (the last checkpoint stays), or the disk is full.
        CheckpointError: The checkpoint to go on from cannot be read or is another recipe's.
    """
    # Each stage seeds anew, so it comes out the same whether or not the stages before it ran in this process.
    random_state.seed_everything(stage.recipe.seed + fabric.global_rank)
    order, position = _order(stage, splits, 0), Position()
    batches.check_last_batch(order, fabric.world_size, where=f"training.{stage.kind}")
    training = begin(stage, fabric, image=splits.train[0][0], epoch_steps=len(order))
    if go_on and stage.checkpoint.exists():
        position = resume(stage, **training.parts)
        if training.controller is not None and position.budget:
            training.controller.load_state_dict(position.budget["controller"])
    done = position.epoch * len(order) + position.step
    progress.start_stage(stage.name, steps=stage.settings.epochs * len(order), done=done, cost=stage.cost)
    while not _is_over(stage, position):
        _train_epoch(training, splits, position, progress)
        best = _close_epoch(training, splits, position)
        progress.note(note(position.log[-1]))
        save(stage, position, fabric=fabric, best=best, **training.parts)
        on_first_process(fabric, lambda: write_log(stage.checkpoint.with_name(LOG_FILE), position.log))
    progress.end_stage(cost=stage.cost)


def _order(stage: Stage, splits: Splits, epoch: int) -> list[list[int]]:
    count = batches.length(splits.train)
    return batches.epoch_order(count, stage.settings.batch_size, seed=stage.recipe.seed, epoch=epoch)


def _is_over(stage: Stage, position: Position) -> bool:
    """Whether all epochs are done, or the validation metrics have not improved for long enough."""
    patience = stage.settings.patience
    return position.epoch >= stage.settings.epochs or (patience is not None and position.epochs_since_best >= patience)


def _train_epoch(training: Training, splits: Splits, position: Position, progress: TrainingProgress) -> None:
    """Runs the steps of an epoch that are left."""
    stage, fabric, recipe = training.stage, training.fabric, training.stage.recipe.training
    order = _order(stage, splits, position.epoch)
    share = batches.Share.of(fabric)
    loader = batches.train_loader(
        splits.train, order[position.step :], epoch=position.epoch, share=share, workers=recipe.workers
    )
    training.model.train()
    for batch in batches.loaded(loader):
        done = (position.epoch + position.step / len(order)) / stage.settings.epochs
        set_learning_rates(training.optimisers, stage.settings, epoch=position.epoch, progress=done)
        training.step(batch, position, images=len(order[position.step]))
        position.step += 1
        progress.advance(cost=stage.cost)
        every = recipe.checkpoint_steps
        if every and position.step % every == 0 and position.step < len(order):
            check_weights(stage, position)
            save(stage, position, fabric=fabric, **training.parts)


def _close_epoch(training: Training, splits: Splits, position: Position) -> bool:
    """Measures the network, notes the epoch's row and moves on to the next epoch; says whether it is the best so far.

    The last epoch of a network with a budget ends with the projection, so what is measured and saved is what fits.
    """
    stage, controller, share = training.stage, training.controller, batches.Share.of(training.fabric)
    check_weights(stage, position)
    if position.epoch + 1 == stage.settings.epochs and stage.budget is not None and isinstance(stage.model, GatedModel):
        report = project_to_budget(stage.model, stage.budget, progress=False)  # the training's own bar is there
        position.budget["report"] = report.model_dump(mode="json")
    images = sum(map(len, _order(stage, splits, position.epoch)))
    row: LogRow = {"epoch": position.epoch + 1, "lr": training.optimisers["weights"].param_groups[0]["lr"]}
    row |= {f"loss/{name}": value / images for name, value in position.sums.items()}
    training_recipe = stage.recipe.training
    size = stage.settings.batch_size // (share.world_size * training_recipe.accumulate)
    loader = batches.evaluation_loader(splits.val, size, share=share, workers=training_recipe.workers)
    row |= metric_columns(evaluate(stage.model, batches.loaded(loader), stage.tasks), stage.tasks)
    if isinstance(stage.model, GatedModel):
        row |= gate_columns(stage.model)
        if training.settling is not None:
            row["settled"] = training.settling.share_settled
        if controller is not None:
            row |= budget_columns(controller, stage.model, position.budget.get("report"))
    best = not position.best or is_better(row, position.log[int(position.best["epoch"]) - 1], stage.tasks)
    position.log.append(row)
    position.best = {"epoch": row["epoch"]} if best else position.best
    position.epoch, position.step, position.sums = position.epoch + 1, 0, {}
    return best
