"""What the commands share: arguments, errors that are one line and an exit status, what is read and shown."""

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
    from gate2static.gates import GatedModel

Checkpoint = Annotated[Path, typer.Argument(help="ckpt.pt of a gated or shared network, or a run's separate/ folder.")]
StaticDir = Annotated[Path, typer.Argument(help="Folder that `prune` wrote.")]
RecipePath = Annotated[Path, typer.Argument(help="A recipe (YAML).")]
RunDir = Annotated[Path | None, typer.Option("--run-dir", help="Where to write; else <runs_dir>/<name> of the recipe.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value.")]
DType = Literal["float16", "bfloat16", "float32", "float64"]
Target = Literal["any", "ort-cpu", "openvino", "trt"]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON; - for stdout.")]

BAD_INPUT, INTERRUPTED = 2, 130


class Commands(TyperGroup):
    """Turns what a user can cause into one line on stderr and an exit status; a bug keeps its traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keeps the command line, to say how to go on after an interruption."""
        ctx.meta["typed"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (Gate2StaticError, OSError, KeyboardInterrupt) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            status, line = _verdict(error, ctx.meta["typed"])
            typer.echo(f"gate2static: {line}", err=True)
            raise typer.Exit(status) from error


def _verdict(error: BaseException, typed: list[str]) -> tuple[int, str]:
    """Returns the exit status and the line for something that a user can cause."""
    if isinstance(error, Gate2StaticError):
        return error.exit_status, " ".join(str(error).split())
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return BAD_INPUT, f"{where}{error.strerror or error}; what was complete before is untouched"
    resume = not {"train", "sweep"}.isdisjoint(typed) and "--resume" not in typed
    return INTERRUPTED, f"interrupted; go on with: gate2static {shlex.join([*typed, '--resume'] if resume else typed)}"


def _print_version(wanted: bool) -> None:
    """Prints the version and ends, if that is wanted."""
    if wanted:
        import gate2static

        typer.echo(f"gate2static {gate2static.__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")]


def load_network(checkpoint: Path) -> "GatedModel":
    """The network of a checkpoint, or of a run's `separate/` folder."""
    from gate2static.train import gated_baseline, load_gated

    if checkpoint.name == "separate" and checkpoint.is_dir():
        return gated_baseline(checkpoint.parent, "separate")
    return load_gated(checkpoint)[0]


def show(table: RenderableType, json: Path | None = None, content: object = None) -> None:
    """Shows a table, and writes its content as JSON where that was asked for; `-` replaces the table by the JSON."""
    text = json_format.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if json == Path("-"):
        typer.echo(text, nl=False)
        return
    Console().print(table)
    if json is not None:
        from gate2static.files import write_atomically

        write_atomically(json, text.encode(), error=Gate2StaticError)
