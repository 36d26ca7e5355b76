"""The rows of a network's logs as a run of Weights & Biases."""

from typing import Any

from gate2static.errors import TrainingError
from gate2static.messages import brief
from gate2static.runtimes.optional import require
from gate2static.train.loop.log import LogRow
from gate2static.train.loop.network_run import NetworkRun


class WandbRun:
    """The run of one network, in the group of its run folder.

    Variables such as WANDB_MODE and WANDB_PROJECT are the user's. A resumed training starts a new run with all rows.

    Args:
        run: The training; W&B's own files lie in the network's folder.

    Raises:
        MissingDependencyError: `wandb` is not installed.
        TrainingError: W&B starts no run, for instance because nobody is logged in.
    """

    def __init__(self, run: NetworkRun) -> None:
        wandb = library()
        folder = run.checkpoint.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)  # W&B would write to the system's temporary folder
            self._run = wandb.init(
                name=run.name,
                group=run.run_dir.resolve().name,  # `.` has no name
                dir=folder,
                config=run.recipe.model_dump(mode="json"),
                reinit="create_new",
            )
        except (wandb.Error, OSError) as error:
            raise TrainingError(
                f"{run.name}: Weights & Biases starts no run: {brief(error)}; log in with `wandb login`, set "
                "WANDB_MODE=offline, or set training.wandb: false"
            ) from error
        # Epochs and measured steps are two axes; W&B's own counts rows.
        self._run.define_metric("*", step_metric="epoch")
        self._run.define_metric("conflict/*", step_metric="step")

    def write(self, row: LogRow, axis: str) -> None:
        """Adds a row, which has the column of its axis."""
        self._run.log(dict(row))

    def flush(self) -> None:
        """Does nothing: W&B sends rows as they come."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def library() -> Any:
    """Imports and returns W&B.

    Raises:
        MissingDependencyError: `wandb` is not installed; the message says how to install it.
    """
    return require("wandb")
