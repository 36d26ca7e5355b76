"""The rows of `log.csv` and `conflict.csv` as TensorBoard's event files, beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gate2static.errors import TrainingError
from gate2static.runtimes.optional import require
from gate2static.train.loop.network_run import NetworkRun
from gate2static.train.loop.position import Position

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_SUFFIX = ".gate2static"
"""The end of our event files' names, which tells them from those that somebody else wrote."""


class EventFiles:
    """The event files of one network's training.

    They are written anew when the training starts or is resumed, as the logs are, so that no step shows twice.

    Args:
        run: The training; the files lie in the network's folder.

    Raises:
        MissingDependencyError: `tensorboard` is not installed.
    """

    def __init__(self, run: NetworkRun) -> None:
        summary_writer = _summary_writer()
        folder = run.checkpoint.parent
        try:
            for older in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
                older.unlink()
            self._writer = summary_writer(str(folder), filename_suffix=_SUFFIX)
        except OSError as error:
            raise _failure(run, error) from error
        self._run = run
        self._epochs = 0
        self._steps = 0

    def write(self, position: Position) -> None:
        """Adds the rows that are new: those of the log by epoch, those of conflict by step, as `conflict/<column>`.

        Raises:
            TrainingError: The disk is full.
        """
        try:
            for row in position.log[self._epochs :]:
                self._add(row, step=int(row["epoch"]), without="epoch", prefix="")
            for row in position.conflict[self._steps :]:
                self._add(row, step=int(row["step"]), without="step", prefix="conflict/")
            self._writer.flush()
        except OSError as error:
            raise _failure(self._run, error) from error
        self._epochs = len(position.log)
        self._steps = len(position.conflict)

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()

    def _add(self, row: dict[str, float], *, step: int, without: str, prefix: str) -> None:
        for name, value in row.items():
            if name != without:
                self._writer.add_scalar(f"{prefix}{name}", value, step)


@contextmanager
def event_files(run: NetworkRun, fabric: "Fabric") -> Iterator[EventFiles | None]:
    """Opens the event files of a network on the first process; None elsewhere, and where the recipe wants none."""
    if not (run.recipe.training.tensorboard and fabric.is_global_zero):
        yield None
        return
    files = EventFiles(run)
    try:
        yield files
    finally:
        files.close()


def check_tensorboard() -> None:
    """Imports what event files are written with.

    Raises:
        MissingDependencyError: `tensorboard` is not installed; the message says how to install it.
    """
    _summary_writer()


def _summary_writer() -> Any:
    # Torch's own import error would name torch.
    require("tensorboard")
    return require("torch.utils.tensorboard").SummaryWriter


def _failure(run: NetworkRun, error: OSError) -> TrainingError:
    return TrainingError(
        f"{run.name}: cannot write TensorBoard's event files: {error.strerror or error}; free space, or set "
        "training.tensorboard: false"
    )
