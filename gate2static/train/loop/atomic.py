"""Files of a run are either the old one or the new one, whatever happens while writing."""

from functools import partial

from gate2static import files
from gate2static.errors import TrainingError

write_atomically = partial(
    files.write_atomically,
    error=TrainingError,
    advice="Free some space or choose another folder, then go on with --resume.",
)
"""`files.write_atomically` for what training writes."""
