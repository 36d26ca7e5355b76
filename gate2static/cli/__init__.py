"""The command line: one function per command, listed in `commands.py`."""

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


def main() -> None:
    """Runs the command line."""
    _open_standard_streams()
    # What the package runs on takes seconds to import, and an interruption in the middle of it has many faces.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from gate2static.cli.commands import app

    signal.signal(signal.SIGINT, before)
    app()


def _leave(signal_number: int, frame: FrameType | None) -> None:
    """Ends the process before it has begun to do anything."""
    os.write(2, b"gate2static: interrupted\n")
    os._exit(INTERRUPTED)


def _open_standard_streams() -> None:
    """Opens standard streams that are closed, since the next file to be opened would take the place of one of them."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


__all__ = ["INTERRUPTED", "main"]
