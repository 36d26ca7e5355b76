"""Loggers of a network's training: they get the rows of `log.csv` and `conflict.csv` as these are written."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

from gate2static.recipe import TrainingRecipe
from gate2static.train.loop import event_files, wandb_run
from gate2static.train.loop.log import LogRow
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.position import Position

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Axis = Literal["epoch", "step"]
"""The column that says when a row was measured."""


class Logger(Protocol):
    """What takes rows."""

    def write(self, row: LogRow, axis: Axis) -> None:
        """Adds a row of numbers by column; the column `axis` is its place."""

    def flush(self) -> None:
        """Lets readers see the rows; called after those of an epoch."""

    def close(self) -> None:
        """Ends the logger."""


class Loggers:
    """The loggers of one network, which get each row once.

    Args:
        loggers: None of them has a row yet.
    """

    def __init__(self, *loggers: Logger) -> None:
        self._loggers = loggers
        self._epochs = 0
        self._steps = 0

    def write(self, position: Position) -> None:
        """Adds the rows that are new: those of the log by epoch, those of conflict by step, as `conflict/<column>`.

        Raises:
            TrainingError: A logger cannot write.
        """
        for logger in self._loggers:
            for row in position.log[self._epochs :]:
                logger.write(row, "epoch")
            for row in position.conflict[self._steps :]:
                logger.write({name if name == "step" else f"conflict/{name}": row[name] for name in row}, "step")
            logger.flush()
        self._epochs = len(position.log)
        self._steps = len(position.conflict)


@contextmanager
def open_loggers(run: NetworkRun, fabric: "Fabric") -> Iterator[Loggers]:
    """Opens the loggers that a network's recipe wants, on the first process; there are none elsewhere."""
    wanted = run.recipe.training
    with ExitStack() as stack:
        loggers: list[Logger] = []
        for is_wanted, logger in ((wanted.tensorboard, event_files.EventFiles), (wanted.wandb, wandb_run.WandbRun)):
            if is_wanted and fabric.is_global_zero:
                loggers.append(logger(run))
                stack.callback(loggers[-1].close)
        yield Loggers(*loggers)


def check_loggers(training: TrainingRecipe) -> None:
    """Imports what the loggers of a recipe write with.

    Raises:
        MissingDependencyError: A library is not installed; the message says how to install it.
    """
    if training.tensorboard:
        event_files.summary_writer()
    if training.wandb:
        wandb_run.library()
