"""Progress on stderr: a bar for the run with the time left, a bar for the network in training."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Bars that count backbone passes, so that the time left stays true when a gated step costs T+1 of them."""

    def __init__(self, *, enabled: bool, total_cost: float) -> None:
        """Prepares bars for a run that will `advance` by `total_cost` in all."""
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._run = self._bars.add_task("training", total=round(total_cost), note="")
        self._stage: TaskID | None = None
        self._left = 0

    def __enter__(self) -> "TrainingProgress":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def start_stage(self, name: str, *, steps: int, done: int, cost: float) -> None:
        """Begins the bar of one network; `done` steps of it came from a checkpoint."""
        self._stage = self._bars.add_task(name, total=steps, completed=done, note="")
        self._bars.advance(self._run, done * cost)
        self._left = steps - done

    def advance(self, *, cost: float) -> None:
        """Counts one step."""
        self._left -= 1
        self._bars.advance(self._run, cost)
        if self._stage is not None:
            self._bars.advance(self._stage)

    def end_stage(self, *, cost: float) -> None:
        """Counts the steps that were spared by stopping early."""
        self._bars.advance(self._run, self._left * cost)

    def note(self, text: str) -> None:
        """Shows a line beside the network's bar, such as its metrics."""
        if self._stage is not None:
            self._bars.update(self._stage, note=text)
