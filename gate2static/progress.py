"""The progress bar for work that takes more than a moment: on stderr, with the time left, and only on a terminal."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from gate2static.messages import printable
from gate2static.terminal import console


class PlainColumn(TextColumn):
    """A column of text that may hold anything: neither markup nor control characters of it reach the terminal."""

    def render(self, task: Task) -> Text:
        """Returns the column's text for one bar."""
        return Text(printable(self.text_format.format(task=task)))


def progress_bar(*, visible: bool) -> Progress:
    """Returns a bar that counts steps; it stays silent where stderr is not a terminal or `visible` is false."""
    stderr = console(stderr=True)
    return Progress(
        PlainColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not (visible and stderr.is_terminal),
    )
