"""`gate2static prune` with a budget: what fits together with it, and what is written for it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from gate2static.budget import BudgetReport
    from gate2static.static import StaticModel
    from gate2static.train import Projected


def check_output(output: Path | None, *, dry_run: bool, budget: bool) -> None:
    """Refuses what cannot be written, before the work."""
    from gate2static.static import check_replaceable, read_manifest

    if dry_run:
        return
    if output is None:
        raise typer.BadParameter("give -o DIR, or --dry-run to see the plan only")
    check_replaceable(output)
    has_partner = any(output.glob("*")) and read_manifest(output).budget is not None
    if budget and beside(output).exists() and not has_partner:
        raise typer.BadParameter(f"the projected network would replace {beside(output)}; give another -o DIR")


def project(
    checkpoint: Path,
    budget: list[str] | None,
    output: Path | None,
    *,
    aligned: bool,
    target: str,
    dtype: str | None,
    threads: int | None,
) -> "Projected | None":
    """Projects a checkpoint to what `--budget` asks for, if anything; refuses what that does not fit together with."""
    if not budget:
        return None
    from gate2static.bench import NETWORK_BACKENDS, Stopwatch
    from gate2static.recipe import parse_budget
    from gate2static.train import project_checkpoint

    asked = parse_budget(budget)
    if aligned:
        raise typer.BadParameter(
            "--budget counts the channels that are needed; --align and --target trt add others: leave out one"
        )
    if output is not None and beside(output) == checkpoint.resolve():
        raise typer.BadParameter(f"the projected network would replace {checkpoint}; give another -o DIR")
    if asked.device is not None and dtype is not None:
        raise typer.BadParameter("a latency is that of the network as trained; leave out --dtype")
    measure = Stopwatch(asked.device, threads=threads) if asked.device in NETWORK_BACKENDS else None
    if measure is None and threads is not None:
        raise typer.BadParameter(
            f"--threads is for a latency that is timed: --budget device=NAME, one of {', '.join(NETWORK_BACKENDS)}"
        )
    if measure is None and asked.device is not None and target != "any":
        raise typer.BadParameter(
            "a latency is predicted for --target any; leave out --target, or have it timed on this machine with "
            f"--budget device=NAME, one of {', '.join(NETWORK_BACKENDS)}"
        )
    projected = project_checkpoint(checkpoint, asked, measure=measure, target=target if measure else "any")
    typer.echo(f"budget: {projected.report}")
    return projected


def state_budget(static: "StaticModel", report: "BudgetReport", *, promised: bool) -> None:
    """Names in the manifest the budget that the gates meet, or says that the static network may not."""
    if promised:
        static.manifest = static.manifest.model_copy(update={"budget": report.model_dump(mode="json")})
    else:
        typer.echo(f"budget: {report}; --align, --target or --dtype change that cost, it is not promised here")


def beside(output: Path) -> Path:
    """Where the projected checkpoint of a static network lies: what `verify` compares it with."""
    folder = output.resolve()
    return folder.parent / f"{folder.name}.ckpt.pt"
