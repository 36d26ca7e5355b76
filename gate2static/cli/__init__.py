"""The command line: one function per command, in `commands.py`."""

from gate2static.cli.commands import main

__all__ = ["main"]
