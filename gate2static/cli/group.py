"""The group of all commands: every error becomes one line on stderr and an exit status (README)."""

import logging
import os
import select
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup
from typer.main import get_command

from gate2static.cli import INTERRUPTED
from gate2static.errors import Gate2StaticError
from gate2static.messages import brief
from gate2static.terminal import degrade_gracefully, say

BAD_INPUT = 2
"""The exit status after an error that the user can correct."""
BUG = 3
"""The exit status after an error that nobody foresaw."""
BROKEN_PIPE = 141
"""The exit status where nobody reads the output any more, as of other programs: 128 plus the signal's number."""
DEBUG = "--debug"
"""The option that shows the tracebacks of errors and what libraries say."""

_UsageError: Any = typer.BadParameter.__base__
_OUT_OF_MEMORY = ("out of memory", "t allocate memory", "unable to allocate", "bad_alloc", "storage size calculation")
_LONGEST = 900
_PACKAGE = str(Path(__file__).parents[1]) + os.sep


class Commands(TyperGroup):
    """Turns every error into one line on stderr and an exit status, and gives every command `--plugin`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        common = typer.Typer(add_completion=False)
        common.command()(_of_every_command)
        for command in self.commands.values():
            command.params += get_command(common).params

    def main(  # type: ignore[override]  # what typer calls it with, and no more
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Runs a command line and ends the process.

        Args:
            args: The words of the command line; None takes the process's own.
            prog_name: The program's name in help texts.
            extra: What typer passes besides; the settings of its own `main` are left out.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        degrade_gracefully()
        with nullcontext() if DEBUG in arguments else _quiet_libraries():
            status = self._run(arguments, prog_name or "gate2static")
        sys.exit(status)

    def _run(self, arguments: list[str], name: str) -> int:
        """Runs a command line, tells about its error, and returns the exit status."""
        typed = list(arguments)
        try:
            # A shell that asks for completions says so in the environment; then this ends the process.
            self._main_shell_completion({}, name)
            with self.make_context(name, arguments or ["--help"]) as context:
                self.invoke(context)
            _flush()
        except typer.Exit as end:
            return int(end.exit_code) if typed else BAD_INPUT
        except SystemExit as end:
            # rich ends the process where nobody reads its output.
            if isinstance(end.__context__, BrokenPipeError):
                return BROKEN_PIPE
            raise
        except BaseException as error:  # noqa: BLE001 - the last place that can make a line of it
            if isinstance(error, BrokenPipeError) and _close_unread_streams():
                return BROKEN_PIPE
            return _tell(error, typed)
        return 0


def _allow_plugins(names: list[str] | None) -> None:
    """Imports what `--plugin` names; a callback of typer's."""
    for name in names or ():
        from gate2static.plugins import allow_plugin

        allow_plugin(name, what="--plugin", error=Gate2StaticError)


def _of_every_command(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="PACKAGE.MODULE",
            # Commands need not know of it.
            expose_value=False,
            callback=_allow_plugins,
            help="Your code that a checkpoint or a run folder names; it is imported and run. May be repeated.",
        ),
    ] = None,
) -> None:
    """Has the options that every command has."""


def _tell(error: BaseException, typed: list[str]) -> int:
    """Writes an error to stderr as one line, and returns the exit status."""
    if DEBUG in typed:
        traceback.print_exc()
    status, line = _status_and_line(error, typed)
    with suppress(OSError):  # stderr may be full or closed as well
        say(f"gate2static: {brief(line, _LONGEST, both_ends=True)}", error=True)
    return status


def _close_unread_streams() -> bool:
    """Ends output that nobody reads any more, as in `gate2static ... | head`; returns whether there is any."""
    unread = []
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            unread.append(descriptor)
    for descriptor in unread:
        # What is left in the buffers would raise again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return bool(unread)


def _status_and_line(error: BaseException, typed: list[str]) -> tuple[int, str]:
    """Returns the exit status and the message for an error."""
    if _is_interruption(error):
        # Commands without --resume are simply repeated.
        can_resume = not {"train", "sweep"}.isdisjoint(typed) and "--resume" not in typed
        command = shlex.join([*typed, "--resume"] if can_resume else typed)
        return INTERRUPTED, f"interrupted; continue with: gate2static {command}"
    if isinstance(error, Gate2StaticError):
        return error.exit_status, str(error)
    if isinstance(error, _UsageError):
        context = error.ctx
        command = context.command_path if context is not None else "gate2static"
        return BAD_INPUT, f"{error.format_message()} See {command} --help."
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        return BAD_INPUT, f"{path}{error.strerror or error}; files that were complete before are untouched"
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY):
        return BAD_INPUT, f"not enough memory: {str(error) or 'Python could not allocate any'}; lower the batch size"
    return BUG, (
        f"this is a bug, please report it: {type(error).__name__}: {error}; "
        f"gate2static {DEBUG} {shlex.join(typed)} shows where it comes from"
    )


def _is_interruption(error: BaseException) -> bool:
    """Returns whether Ctrl-C is behind an error: one that interrupts an import may come out as another error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _flush() -> None:
    """Writes what is left in the buffers, while an error can still be told."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps libraries from writing on the terminal; warnings of this package are one line each."""
    # The libraries' C++ parts read it when they are loaded.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    disabled = logging.root.manager.disable
    shown = warnings.showwarning
    logging.disable(logging.CRITICAL)
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        warnings.showwarning = shown
        logging.disable(disabled)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints a warning of this package, and none of a library; a function of `warnings`."""
    if filename.startswith(_PACKAGE) or category.__module__.startswith("gate2static."):
        say(f"gate2static: warning: {brief(message, _LONGEST, both_ends=True)}", error=True)
