"""The rows of `log.csv` and `conflict.csv` as TensorBoard's event files, beside them."""

from typing import Any

from gate2static.errors import TrainingError
from gate2static.runtimes.optional import require
from gate2static.train.loop.log import LogRow
from gate2static.train.loop.network_run import NetworkRun

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
        writer = summary_writer()
        folder = run.checkpoint.parent
        try:
            for older in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
                older.unlink()
            self._writer = writer(str(folder), filename_suffix=_SUFFIX)
        except OSError as error:
            raise _failure(run, error) from error
        self._run = run

    def write(self, row: LogRow, axis: str) -> None:
        """Adds the numbers of a row; the column `axis` is where they stand.

        Raises:
            TrainingError: The disk is full.
        """
        try:
            for name, value in row.items():
                if name != axis:
                    self._writer.add_scalar(name, value, int(row[axis]))
        except OSError as error:
            raise _failure(self._run, error) from error

    def flush(self) -> None:
        """Writes everything that was added.

        Raises:
            TrainingError: The disk is full.
        """
        try:
            self._writer.flush()
        except OSError as error:
            raise _failure(self._run, error) from error

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


def summary_writer() -> Any:
    """Imports and returns the class that writes event files.

    Raises:
        MissingDependencyError: `tensorboard` is not installed; the message says how to install it.
    """
    # Torch's own import error would name torch.
    require("tensorboard")
    return require("torch.utils.tensorboard").SummaryWriter


def _failure(run: NetworkRun, error: OSError) -> TrainingError:
    return TrainingError(
        f"{run.name}: cannot write TensorBoard's event files: {error.strerror or error}; free space, or set "
        "training.tensorboard: false"
    )
