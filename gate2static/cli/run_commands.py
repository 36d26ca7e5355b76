"""The commands that read what a training or a search wrote."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gate2static.cli.arguments import (
    Json,
    Threads,
    show,
    show_report,
    tell,
)
from gate2static.terminal import say


def suggest_targets(
    run_dir: Annotated[Path, typer.Argument(help="A folder that `train` or `sweep` wrote.")], json: Json = None
) -> None:
    """Suggest hinge targets for the tasks of a run, from what they lose by sharing."""
    from gate2static.report.tables.targets_table import targets_table
    from gate2static.train import suggest_for_run

    suggestions = suggest_for_run(run_dir)
    content = {task: asdict(suggestion) for task, suggestion in suggestions.items()}
    show(targets_table(suggestions), json, content)


def front(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders that `search` wrote.")],
    pick: Annotated[
        list[str] | None,
        typer.Option(
            "--pick",
            metavar="BOUND",
            help="Print only the folder of the best network with this bound, such as macs<=0.6; may be repeated.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="The page to write; front.html in the first folder by default.")
    ] = None,
    json: Json = None,
) -> None:
    """Show the networks of searches that no other network beats, as a table and as a page."""
    from gate2static.errors import SearchError
    from gate2static.files import write_atomically
    from gate2static.front.page import render_front
    from gate2static.front.pareto import as_json, pick_network, read_front
    from gate2static.front.table import front_table

    found = read_front(run_dirs)
    if pick:
        folder = str(pick_network(found, pick).folder)
        tell(folder, json, {"folder": folder})
        return
    page = html or run_dirs[0] / "front.html"
    write_atomically(page, render_front(found).encode(), error=SearchError)
    show(front_table(found), json, as_json(found))
    if json != Path("-"):
        say(f"page: {page}")


def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(help="A folder that `train`, `sweep` or `demo` wrote; several give their means.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page's folder; needed for several runs.")
    ] = None,
    row: Annotated[
        list[Path] | None,
        typer.Option("--row", metavar="FILE", help="Also show a network that was trained elsewhere; may be repeated."),
    ] = None,
    json: Json = None,
) -> None:
    """Write report.html and its pictures for a run, or for several runs that differ in their seeds."""
    from gate2static.cli.option_checks import report_folder
    from gate2static.report import write_report, write_report_of_runs

    folder = report_folder(run_dirs, output)
    foreign = row or ()
    show_report(
        write_report(run_dirs[0], foreign) if folder is None else write_report_of_runs(run_dirs, folder, foreign), json
    )


def deliver(
    run_dir: Annotated[Path, typer.Argument(help="A folder that `train` or `sweep` wrote.")],
    trt_rtx: Annotated[bool, typer.Option("--trt-rtx", help="Build TensorRT-RTX engines too.")] = False,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Prune, verify, export and time every network of a run, and write the report."""
    from gate2static.delivering import deliver as deliver_run

    show_report(deliver_run(run_dir, engines=trt_rtx, threads=threads), json)
