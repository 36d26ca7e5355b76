"""The list of all commands, in the order in which data flows."""

from typing import Annotated

import typer

from gate2static.cli.arguments import Version
from gate2static.cli.group import Commands
from gate2static.cli.run_commands import deliver, front, report, suggest_targets
from gate2static.cli.static_commands import evaluate, export, prune, verify
from gate2static.cli.timing_commands import bench, doctor, predict, profile
from gate2static.cli.training_commands import demo, new, recipes, search, sweep, train

# Everything heavy (torch, matplotlib, the stages) is imported inside the commands, so that --help answers at once.

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors, and what libraries say.")] = False,
    version: Version = False,
) -> None:
    """Train multi-task networks whose tasks share channels, and prune each to one verified static network."""


for command in (
    demo,
    new,
    train,
    sweep,
    search,
    front,
    suggest_targets,
    prune,
    verify,
    export,
    evaluate,
    bench,
    profile,
    predict,
    report,
    deliver,
    recipes,
    doctor,
):
    app.command()(command)
