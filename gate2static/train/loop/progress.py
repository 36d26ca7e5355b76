"""Progress on stderr: one bar for the run with the time left, and one bar for the network in training."""

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from gate2static.progress import PlainColumn
from gate2static.terminal import console


class TrainingProgress:
    """Progress bars of a run.

    The run's bar counts backbone passes, so that the time left stays true although a gated step costs T+1 passes.

    Args:
        enabled: Whether to show the bars.
        total_cost: Backbone passes of the whole run.
    """

    def __init__(self, *, enabled: bool, total_cost: float) -> None:
        self._bars = Progress(
            PlainColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            PlainColumn("{task.fields[note]}"),
            console=console(stderr=True),
            disable=not enabled,
        )
        self._run = self._bars.add_task("training", total=round(total_cost), note="")
        self._network: TaskID | None = None
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
        self._network = self._bars.add_task(name, total=steps, completed=done, note="")
        # Steps of a checkpoint count at once, so that the time left of a resumed run is right.
        self._bars.advance(self._run, done * cost)
        self._steps_left = steps - done

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
        """Shows a text beside the network's bar, such as its metrics."""
        if self._network is not None:
            self._bars.update(self._network, note=text)
