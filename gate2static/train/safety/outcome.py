"""The outcome of making a network safe, as `run.json` and the checkpoint hold it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gate2static.tasks import PairedTest


class SafetyRound(BaseModel):
    """One check, and the change behind it.

    Attributes:
        tests: Task that still shared -> metric -> its test on the validation split.
        worse: The tasks that are not shown to be as good as their single-task networks, the worst first.
        opened: The one that then took the encoder of its single-task network; None where none may or needs to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tests: dict[str, dict[str, PairedTest]]
    worse: tuple[str, ...]
    opened: str | None


class Safety(BaseModel):
    """How a network became safe, and what that cost.

    Attributes:
        margin: The loss that tasks may have, as a share of the single-task networks' metrics.
        significance: The largest p-value with which a metric passes.
        metrics: The metrics that had to be shown; with `main`, a task's others only must not lose the margin.
        epochs: Epochs for which the tasks that shared were trained on behind each change.
        rounds: The checks and changes, in order.
        stopped: Why there is no further round: every task is safe, or the budget or the number of rounds allows none.
        macs_before: MACs per image of the network before.
        macs_after: MACs per image of the safe network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: float
    significance: float
    metrics: Literal["main", "all"]
    epochs: int
    rounds: tuple[SafetyRound, ...]
    stopped: Literal["safe", "budget", "rounds"]
    macs_before: int
    macs_after: int

    @property
    def opened(self) -> tuple[str, ...]:
        """The tasks with their own encoders, in the order in which they got them."""
        return tuple(one.opened for one in self.rounds if one.opened is not None)

    @property
    def unsafe(self) -> tuple[str, ...]:
        """The tasks that are not shown to be safe at the end."""
        return tuple(task for task in self.rounds[-1].worse if task != self.rounds[-1].opened)

    @property
    def further_epochs(self) -> int:
        """The epochs for which the tasks that still share were trained on, over all rounds; 0 where none share."""
        still_share = set(self.rounds[-1].tests) - {self.rounds[-1].opened}
        return self.epochs * len(self.opened) if still_share else 0
