"""The files `log.csv`, one row per epoch, and `conflict.csv`, one row per measured step."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from gate2static.train.atomic import write_atomically

FILE = "log.csv"
CONFLICT_FILE = "conflict.csv"
LogRow = dict[str, float]
"""The numbers of one epoch, or of one step, by column."""


def write_log(path: Path, rows: Sequence[LogRow]) -> None:
    """Writes all rows anew, so that a resumed run leaves the same file as an uninterrupted one.

    Numbers are written in full precision: two logs are equal exactly where the runs were.

    Args:
        path: The file to write.
        rows: The rows, at least one; the first has all columns.

    Raises:
        TrainingError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: repr(value) for key, value in row.items()})
    data = text.getvalue().encode()
    if not (path.is_file() and path.read_bytes() == data):
        write_atomically(path, data)
