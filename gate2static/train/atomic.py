"""Atomic writes for training: every file of a run is either the old one or the new one."""

from functools import partial

from gate2static import files
from gate2static.errors import TrainingError

write_atomically = partial(
    files.write_atomically,
    error=TrainingError,
    advice="Free some space or choose another folder, then continue with --resume.",
)
"""Writes a file of a run, as `files.write_atomically` does, and raises a TrainingError where that fails."""
