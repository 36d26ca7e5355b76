"""Progress on stderr: bars with the time left on a terminal, one line per epoch in a log."""

from datetime import datetime, timedelta
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from gate2static.progress import PlainColumn
from gate2static.terminal import console, say


class TrainingProgress:
    """The progress of a run: one bar for the run and one for the network in training.

    The run's bar counts backbone passes, so that the time left stays true although a gated step costs T+1 passes.
    Where stderr is no terminal, each epoch prints one line with a time stamp instead.

    Args:
        enabled: Whether to show the progress.
        total_cost: Backbone passes of the whole run.
    """

    def __init__(self, *, enabled: bool, total_cost: float) -> None:
        stderr = console(stderr=True)
        self._prints_lines = enabled and not stderr.is_terminal
        self._bars = Progress(
            PlainColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            PlainColumn("{task.fields[note]}"),
            console=stderr,
            disable=not enabled or self._prints_lines,
        )
        self._run = self._bars.add_task("training", total=round(total_cost), note="")
        self._network: TaskID | None = None
        self._name = ""
        self._steps_left = 0

    def __enter__(self) -> "TrainingProgress":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def start_network(self, name: str, *, steps: int, done: int, cost: float) -> None:
        """Begins the bar of one network.

        Args:
            name: The network's name in the run.
            steps: All steps of its training.
            done: The steps that a checkpoint spared.
            cost: Backbone passes per step.
        """
        self._name = name
        self._network = self._bars.add_task(name, total=steps, completed=done, note="")
        # Steps of a checkpoint count at once, so that the time left of a resumed run is right.
        self._bars.advance(self._run, done * cost)
        self._steps_left = steps - done
        if done >= steps:
            self.note("trained before")

    def advance(self, *, cost: float) -> None:
        """Counts one step of `cost` backbone passes."""
        self._steps_left -= 1
        self._bars.advance(self._run, cost)
        if self._network is not None:
            self._bars.advance(self._network)

    def end_network(self, *, cost: float) -> None:
        """Counts the steps that early stopping spared, each of `cost` backbone passes."""
        self._bars.advance(self._run, self._steps_left * cost)

    def skip(self, *, cost: float) -> None:
        """Counts `cost` backbone passes that turned out not to be needed."""
        self._bars.advance(self._run, cost)

    def note(self, text: str) -> None:
        """Shows a text beside the network's bar, such as its metrics, or prints it as a line of its own."""
        if self._network is not None:
            self._bars.update(self._network, note=text)
        if self._prints_lines:
            now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            say(f"{now} {self._name}: {text}{self._time_left()}", error=True)

    def _time_left(self) -> str:
        """Returns the time left of the whole run in words; nothing before the first steps."""
        seconds = self._bars.tasks[self._run].time_remaining
        return "" if seconds is None else f", {timedelta(seconds=round(seconds))} left"
