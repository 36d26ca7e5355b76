"""Reads the CSV files that training writes."""

import csv
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gate2static.errors import CheckpointError
from gate2static.files import read_bytes
from gate2static.messages import brief


def read_columns(path: Path, *, what: str) -> dict[str, NDArray[np.float64]]:
    """Reads a CSV file of numbers.

    Args:
        path: The file.
        what: The kind of file, for error messages: "log of conflict".

    Returns:
        Column -> its values, one per row; nothing for a file without rows.

    Raises:
        CheckpointError: The file is not one of ours.
    """
    data = read_bytes(path, what=what, error=CheckpointError)
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        columns = {key: np.array([float(row[key]) for row in rows]) for key in (rows[0] if rows else ())}
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: no {what} ({brief(error)}); remove it, or train again") from error
    if not all(np.isfinite(column).all() for column in columns.values()):
        raise CheckpointError(f"{path}: a number is not finite; remove the file, or train again")
    return columns
