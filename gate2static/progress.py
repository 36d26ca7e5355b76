"""The progress bar for work that takes more than a moment: on stderr, with the time left, and only on a terminal."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

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

_PATIENCE_S = 2.0


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


def with_bar(indices: range, what: str) -> Iterator[int]:
    """Yields the indices, and shows a progress bar on stderr after two seconds."""
    start = time.monotonic()
    with ExitStack() as stack:
        bar: Progress | None = None
        for index in indices:
            if bar is None and time.monotonic() - start > _PATIENCE_S:
                bar = stack.enter_context(progress_bar(visible=True))
                bar.add_task(what, total=len(indices))
            if bar is not None:
                bar.update(bar.task_ids[0], completed=index)
            yield index
