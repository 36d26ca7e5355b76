"""Arguments that several commands share, errors as one line with an exit status, and output to the terminal."""

import json as json_format
import shlex
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from gate2static.errors import Gate2StaticError

if TYPE_CHECKING:
    from gate2static.recipe import Recipe

Checkpoint = Annotated[
    Path, typer.Argument(help="ckpt.pt of a gated or shared network, or the separate/ folder of a run.")
]
StaticDir = Annotated[Path, typer.Argument(help="Folder that `prune` wrote.")]
RecipePath = Annotated[Path, typer.Argument(help="A recipe (YAML).")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Output folder; <runs_dir>/<name> of the recipe by default.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value.")]
DType = Literal["float16", "bfloat16", "float32", "float64"]
Target = Literal["any", "ort-cpu", "openvino", "trt"]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; torch's number by default.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON; - for stdout.")]

BAD_INPUT = 2
"""The exit status after an error that the user can correct."""
INTERRUPTED = 130
"""The exit status after Ctrl-C."""


class Commands(TyperGroup):
    """Turns errors that a user can cause into one line on stderr and an exit status; a bug keeps its traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keeps the command line, so that a message can repeat it after an interruption."""
        ctx.meta["typed"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # `gate2static … | head` is not an error; typer ends quietly.
            raise
        except (Gate2StaticError, OSError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            status, line = _status_and_line(error, ctx.meta["typed"])
            typer.echo(f"gate2static: {line}", err=True)
            raise typer.Exit(status) from error


def _status_and_line(error: BaseException, typed: list[str]) -> tuple[int, str]:
    """Returns the exit status and the message for an error that a user can cause."""
    if isinstance(error, Gate2StaticError):
        return error.exit_status, " ".join(str(error).split())
    if isinstance(error, OSError):
        path = f"{error.filename}: " if error.filename else ""
        return BAD_INPUT, f"{path}{error.strerror or error}; files that were complete before are untouched"
    # Commands without --resume are simply repeated.
    can_resume = not {"train", "sweep"}.isdisjoint(typed) and "--resume" not in typed
    command = shlex.join([*typed, "--resume"] if can_resume else typed)
    return INTERRUPTED, f"interrupted; continue with: gate2static {command}"


def _print_version(requested: bool) -> None:
    """Prints the version and ends the program, where `--version` was typed."""
    if requested:
        import gate2static

        typer.echo(f"gate2static {gate2static.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]


def open_run(recipe: Path, overrides: list[str] | None, run_dir: Path | None) -> "tuple[Recipe, Path]":
    """Returns a recipe with its overrides, and the folder of its run."""
    from gate2static.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    return loaded, run_dir or Path(loaded.runs_dir) / loaded.name


def reference_first(networks: list[str], reference: str | None) -> list[str]:
    """Returns the networks to time, beginning with the one that the others are compared with."""
    if reference is None:
        return networks
    return [reference, *(network for network in networks if network != reference)]


def show(table: RenderableType, json: Path | None = None, content: object = None) -> None:
    """Prints a table, and writes its content as JSON if asked for.

    Args:
        table: The table for the terminal.
        json: The file for the JSON; `-` prints the JSON instead of the table, None writes none.
        content: The table's content as plain values.
    """
    text = json_format.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if json == Path("-"):
        typer.echo(text, nl=False)
        return
    Console().print(table)
    if json is not None:
        from gate2static.files import write_atomically

        write_atomically(json, text.encode(), error=Gate2StaticError)
