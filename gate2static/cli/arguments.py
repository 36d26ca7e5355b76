"""Arguments that several commands share, and their output."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import RenderableType

from gate2static import terminal
from gate2static.cli.option_checks import check_outputs
from gate2static.errors import Gate2StaticError

if TYPE_CHECKING:
    from gate2static.recipe import Recipe
    from gate2static.report import WrittenReport
    from gate2static.train import RunResult

Checkpoint = Annotated[
    Path, typer.Argument(help="ckpt.pt of a gated or shared network, or the separate/ folder of a run.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:BUILD",
        help="What builds the network of a checkpoint that your own training loop saved; it is imported and run.",
    ),
]
StaticDir = Annotated[Path, typer.Argument(help="Folder that `prune` wrote.")]
RecipePath = Annotated[Path, typer.Argument(help="A recipe (YAML), or the name of one that `recipes` lists.")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Output folder; <runs_dir>/<name> of the recipe by default.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value.")]
DType = Literal["float16", "bfloat16", "float32", "float64"]
Target = Literal["any", "ort-cpu", "openvino", "trt"]
PrecisionName = Literal["fp32", "fp16", "int8"]
SplitName = Literal["train", "val", "test"]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Baselines = Annotated[
    Path | None,
    typer.Option(
        "--baselines",
        metavar="RUN",
        help="Take the separate and shared networks of this run, whose recipe agrees in all that they depend on.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; torch's number by default.")]


def _check_json(json: Path | None) -> Path | None:
    """Refuses a file that cannot be written before the command's work begins; a callback of typer's."""
    check_outputs(json)
    return json


Json = Annotated[
    Path | None, typer.Option("--json", callback=_check_json, help="Also write the result as JSON; - for stdout.")
]


def _print_version(requested: bool) -> None:
    """Prints the version and ends the program, where `--version` was typed."""
    if requested:
        import gate2static

        terminal.say(f"gate2static {gate2static.__version__}")
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
    # Before the table, so that a terminal that fails does not take the result with it.
    write_json(json, content)
    if json != Path("-"):
        terminal.show(table)


def tell(line: str, json: Path | None, content: object) -> None:
    """Prints one line, and writes its content as JSON if asked for, as `show` does with a table."""
    write_json(json, content)
    if json != Path("-"):
        terminal.say(line)


def write_json(json: Path | None, content: object) -> None:
    """Writes plain values as JSON into a file; `-` is stdout, and None is no file."""
    if json == Path("-"):
        terminal.say_json(content)
    elif json is not None:
        from gate2static.files import write_atomically

        write_atomically(json, terminal.as_json(content).encode(), error=Gate2StaticError)


def show_report(written: "WrittenReport", json: Path | None) -> None:
    """Prints a report's table, where its page lies, and reasons not to deploy a network; or all of it as JSON."""
    from gate2static.report import json_table, rich_table

    show(rich_table(written.content), json, {"report": str(written.html), **json_table(written.content)})
    if json != Path("-"):
        terminal.say(f"report: {written.html}")
    say_cautions(written.content.cautions)


def show_trained(runs: "Mapping[Path, RunResult]", json: Path | None) -> None:
    """Prints where runs lie and reasons not to deploy their networks; or a list with the content of each `run.json`."""
    from gate2static.report import slow_networks

    write_json(json, [{"folder": str(folder), **run.model_dump(mode="json")} for folder, run in runs.items()])
    for folder, run in runs.items():
        if json != Path("-"):
            terminal.say(f"trained: {folder}")
        say_cautions(run.cautions())
        say_cautions(slow_networks(folder, run))


def say_cautions(sentences: Iterable[str]) -> None:
    """Prints reasons not to deploy a network on stderr, one per line."""
    for sentence in sentences:
        terminal.say(f"caution: {sentence}", error=True)
