"""The training loop of one network, epoch by epoch, from its last checkpoint on."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from gate2static.architectures import Architecture
from gate2static.data import Splits
from gate2static.errors import StoppedError
from gate2static.gates import GatedModel
from gate2static.train.evaluation import evaluate
from gate2static.train.loop import batches, random_state
from gate2static.train.loop.beginning import begin
from gate2static.train.loop.log import CONFLICT_FILE, LogRow, write_log
from gate2static.train.loop.log import FILE as LOG_FILE
from gate2static.train.loop.log_columns import budget_columns, gate_columns, is_better, metric_columns, note
from gate2static.train.loop.loggers import Loggers, open_loggers
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.optimisers import set_learning_rates
from gate2static.train.loop.position import Position, check_weights
from gate2static.train.loop.progress import TrainingProgress
from gate2static.train.loop.resume import resume, save
from gate2static.train.loop.step import SizedBatch, Training
from gate2static.train.processes.devices import on_first_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Watch = Callable[[LogRow], bool]
"""Is called with the row of an epoch; True stops the training."""


def train_network(
    run: NetworkRun,
    splits: Splits,
    *,
    fabric: "Fabric",
    go_on: bool,
    progress: TrainingProgress,
    watch: Watch | None = None,
) -> None:
    """Trains one network to its last epoch, and writes its checkpoints and its log.

    In a distributed run every process calls this function.

    Args:
        run: The network and its settings; its model is trained in place.
        splits: The data; `train` is trained on and `val` is measured after every epoch.
        fabric: The processes and devices, launched.
        go_on: Whether to start from the network's last checkpoint, if there is one.
        progress: Shows how far the training is.
        watch: Looks at every epoch but the last, in a training of one process; None lets the training be.

    Raises:
        BudgetError: No setting of the gates meets the recipe's budget.
        RecipeError: A process would have no image in some step.
        StoppedError: `watch` stopped the training; the last checkpoint stays.
        TrainingError: A loss or weight is no longer finite (the last checkpoint stays), or the disk is full.
        CheckpointError: The checkpoint to start from cannot be read or belongs to another recipe.
    """
    # Every network seeds anew, so its result does not depend on the networks that were trained before it.
    random_state.seed_everything(run.recipe.seed + fabric.global_rank)
    order = _order(run, splits, 0)
    position = Position()
    batches.check_last_batch(order, fabric.world_size, where=f"training.{run.kind}")
    training = begin(run, fabric, image=splits.train[0][0], epoch_steps=len(order))
    if go_on and run.checkpoint.exists():
        position = resume(run, **training.parts)
        if training.sharding is not None:
            training.sharding.scatter()
        if training.controller is not None and "controller" in position.budget:
            training.controller.load_state_dict(position.budget["controller"])
    steps_done = position.epoch * len(order) + position.step
    progress.start_network(run.name, steps=run.settings.epochs * len(order), done=steps_done, cost=run.cost)
    with open_loggers(run, fabric) as loggers:
        # A process that was killed behind its checkpoint has not written the log's last row.
        _write_log(run, position, fabric, loggers)
        while not _is_over(run, position):
            _train_epoch(training, splits, position, progress)
            is_best = _close_epoch(training, splits, position)
            # The row is in the position before it is saved, so a resumed run writes the same log.
            progress.note(note(position.log[-1]))
            save(run, position, fabric=fabric, best=is_best, **training.parts)
            _write_log(run, position, fabric, loggers)
            if watch is not None and not _is_over(run, position) and watch(position.log[-1]):
                raise StoppedError(f"{run.name} was stopped after epoch {position.epoch}: others are better")
    if training.sharding is not None:
        training.sharding.move(fabric.device)
    progress.end_network(cost=run.cost)


def _write_log(run: NetworkRun, position: Position, fabric: "Fabric", loggers: Loggers) -> None:
    if position.log:
        on_first_process(fabric, lambda: write_log(run.checkpoint.with_name(LOG_FILE), position.log))
    if position.conflict:
        on_first_process(fabric, lambda: write_log(run.checkpoint.with_name(CONFLICT_FILE), position.conflict))
    loggers.write(position)


def _order(run: NetworkRun, splits: Splits, epoch: int) -> list[list[int]]:
    """Returns the batches of an epoch; images that are held out are in none."""
    indices, _ = _parts(run, splits)
    order = batches.epoch_order(len(indices), run.settings.batch_size, seed=run.recipe.seed, epoch=epoch)
    return [[indices[index] for index in batch] for batch in order]


def _parts(run: NetworkRun, splits: Splits) -> tuple[Sequence[int], list[int]]:
    """Returns the images that the weights are trained on, and those that α of Safe MTL is trained on."""
    count = batches.length(splits.train)
    if not run.held_out:
        return range(count), []
    return batches.held_out(count, run.held_out, seed=run.recipe.seed)


def _is_over(run: NetworkRun, position: Position) -> bool:
    """Returns whether all epochs are done, or the validation metrics have not improved for long enough."""
    patience = run.settings.patience
    return position.epoch >= run.settings.epochs or (patience is not None and position.epochs_since_best >= patience)


def _train_epoch(training: Training, splits: Splits, position: Position, progress: TrainingProgress) -> None:
    """Runs the remaining steps of an epoch."""
    run = training.run
    recipe = run.recipe.training
    order = _order(run, splits, position.epoch)
    loader = batches.train_loader(
        splits.train,
        order[position.step :],
        epoch=position.epoch,
        share=batches.Share.of(training.fabric),
        workers=recipe.workers,
    )
    training.model.train()
    held_out = _held_out_batches(training, splits, position, steps=len(order))
    for batch in batches.loaded(loader):
        # Learning rates follow from the position alone, so a resumed run needs no saved schedule.
        share_done = (position.epoch + position.step / len(order)) / run.settings.epochs
        steps_done = position.epoch * len(order) + position.step
        if run.freezes and share_done >= run.search and not position.frozen:
            training.freeze(position)
        if isinstance(run.model, Architecture):
            run.model.advance(share_done)
        set_learning_rates(
            training.optimisers, run.settings, epoch=position.epoch, progress=share_done, steps=steps_done
        )
        images = len(order[position.step])
        if run.held_out:
            training.step_on_held_out(next(held_out), (batch, images))
        training.step(batch, position, images=images, number=steps_done)
        position.step += 1
        progress.advance(cost=run.cost)
        # The end of an epoch saves anyway, after its measurement.
        every = recipe.checkpoint_steps
        if every and position.step % every == 0 and position.step < len(order):
            if training.sharding is not None:
                training.sharding.gather()
            check_weights(run, position)
            save(run, position, fabric=training.fabric, **training.parts)


def _held_out_batches(
    training: Training, splits: Splits, position: Position, *, steps: int
) -> Iterator[SizedBatch]:
    """Yields a process's share of one batch of held-out images per step, and the size of the batch."""
    run = training.run
    _, indices = _parts(run, splits)
    if not indices:
        return
    order = batches.cycled(indices, run.settings.batch_size, seed=run.recipe.seed, epoch=position.epoch, steps=steps)[
        position.step :
    ]
    batches.check_last_batch(sorted(order, key=len, reverse=True), training.fabric.world_size, where="training.shared")
    share = batches.Share.of(training.fabric)
    workers = run.recipe.training.workers
    loader = batches.train_loader(splits.train, order, epoch=position.epoch, share=share, workers=workers)
    yield from zip(batches.loaded(loader), map(len, order), strict=True)


def _close_epoch(training: Training, splits: Splits, position: Position) -> bool:
    """Measures the network, adds the epoch's row to the log and moves the position to the next epoch.

    The last epoch of a network with a budget ends with the projection, unless its gates were frozen on the budget
    earlier, so the network that is measured and saved is the one that fits the budget.

    Returns:
        Whether the epoch is the best so far.
    """
    run = training.run
    if training.sharding is not None:
        training.sharding.gather()
        training.sharding.move(training.fabric.device)
    check_weights(run, position)
    if training.balance is not None:
        training.balance.end_epoch()
    is_last = position.epoch + 1 == run.settings.epochs
    if is_last and not position.frozen:
        training.project(position)
    row = _log_row(training, splits, position)
    if training.sharding is not None:
        training.sharding.move(torch.device("cpu"))
    is_best = not position.best or is_better(row, position.log[int(position.best["epoch"]) - 1], run.tasks)
    position.log.append(row)
    if is_best:
        position.best = {"epoch": row["epoch"]}
    position.epoch += 1
    position.step = 0
    position.sums = {}
    position.balance = {}
    return is_best


def _log_row(training: Training, splits: Splits, position: Position) -> LogRow:
    """Returns the numbers of the epoch that just ended: learning rate, losses, metrics, and the gates' state."""
    run = training.run
    images = sum(len(batch) for batch in _order(run, splits, position.epoch))
    row: LogRow = {"epoch": position.epoch + 1, "lr": training.optimisers["weights"].param_groups[0]["lr"]}
    row |= {f"loss/{name}": value / images for name, value in position.sums.items()}
    row |= {name: total / count for name, (total, count) in position.balance.items()}
    share = batches.Share.of(training.fabric)
    # The size of a part in training, which fits in memory.
    size = run.settings.batch_size // (share.world_size * run.recipe.training.accumulate)
    loader = batches.evaluation_loader(splits.val, size, share=share, workers=run.recipe.training.workers)
    row |= metric_columns(evaluate(run.model, batches.loaded(loader), run.tasks), run.tasks)
    if isinstance(run.model, GatedModel):
        row |= gate_columns(run.model)
        if training.settling is not None:
            row["settled"] = training.settling.share_settled
        if training.controller is not None:
            row |= budget_columns(training.controller, run.model, position.budget.get("report"))
    return row
