"""`log.csv`: one row an epoch."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from gate2static.train.loop.atomic import write_atomically

FILE = "log.csv"
LogRow = dict[str, float]


def write_log(path: Path, rows: Sequence[LogRow]) -> None:
    """Writes all rows anew, so that a resumed run leaves the file that the uninterrupted one does.

    Numbers are written in full: two logs are equal exactly when the runs were.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: repr(value) for key, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue().encode())
