"""The position of a training: the epochs and steps that are done, and what was recorded on the way."""

from dataclasses import dataclass, field
from typing import Any

from gate2static.errors import DivergenceError
from gate2static.train.loop.log import LogRow
from gate2static.train.loop.network_run import NetworkRun


@dataclass(kw_only=True)
class Position:
    """The position of one network's training.

    Attributes:
        epoch: Complete epochs.
        step: Steps of the next epoch that are done.
        sums: Losses by name, each summed over the images of the epoch that is under way.
        log: One row per complete epoch.
        best: The best `epoch` so far, by the mean relative difference of the validation metrics; empty at first.
        budget: With a budget, the state of its `controller` and, once it is met, the `report` of the projection.
        frozen: Whether all gates are frozen.
        balance: Column of the log -> the sum over the steps of the epoch that is under way, and their number.
        conflict: The measurements of conflict so far, one row per measured step.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    log: list[LogRow] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    frozen: bool = False
    balance: dict[str, list[float]] = field(default_factory=dict)
    conflict: list[LogRow] = field(default_factory=list)

    @property
    def epochs_since_best(self) -> int:
        """Complete epochs after the best one."""
        return self.epoch - int(self.best.get("epoch", 0))


def check_weights(run: NetworkRun, position: Position) -> None:
    """Raises a DivergenceError where a weight is not finite, so that no checkpoint replaces the last sound one."""
    for key, value in run.model.state_dict().items():
        if not bool(value.isfinite().all()):
            raise DivergenceError(f"{run.name}: {key} is no longer finite in epoch {position.epoch + 1}; {advice(run)}")


def advice(run: NetworkRun) -> str:
    """Returns the end of an error message: the checkpoint that is kept, and what the user can change."""
    saved = f"the last checkpoint is kept at {run.checkpoint}" if run.checkpoint.exists() else "no epoch was complete"
    return f"{saved}; lower training.{run.kind}.weights.lr, or check the data and the targets"
