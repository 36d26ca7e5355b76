"""Checks of options that exclude each other or that a command needs, made before its work begins."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gate2static.errors import Gate2StaticError, RecipeError

if TYPE_CHECKING:
    from gate2static.pipeline import PruneRequest
    from gate2static.recipe import Recipe
    from gate2static.runtimes.tensorrt import TrtBackend


_LARGEST_BATCH = 65_536


def check_prune_output(checkpoint: Path, output: Path | None, *, dry_run: bool, budget: bool) -> None:
    """Refuses an output that `prune` could not write, or that would replace another file."""
    from gate2static.pipeline import projected_checkpoint
    from gate2static.static import check_replaceable, read_manifest

    if dry_run:
        return
    if output is None:
        raise typer.BadParameter("give -o DIR, or --dry-run to see the plan only")
    check_replaceable(output)
    # A static network with a budget has a projected checkpoint beside it, which may be replaced with it.
    has_projected = any(output.glob("*")) and read_manifest(output).budget is not None
    projected = projected_checkpoint(output)
    if budget and (projected == checkpoint.resolve() or (projected.exists() and not has_projected)):
        raise typer.BadParameter(f"the projected network would replace {projected}; give another -o DIR")


def check_kit(network: Path | None, emit: Path | None, import_dir: Path | None) -> tuple[Path, Path] | None:
    """Returns the network and the folder of `profile --emit`; None where nothing is emitted."""
    if import_dir is not None and (emit is not None or network is not None):
        raise typer.BadParameter("--import DIR takes all from DIR; leave out the network and --emit")
    if emit is None:
        return None
    if network is None:
        raise typer.BadParameter("--emit needs the network to profile: STATIC_DIR or CKPT")
    return network, emit


def check_json_of_prune(output: Path | None, json: Path | None, *, dry_run: bool) -> None:
    """Refuses `prune --json` where no network is written that it could describe."""
    if json is not None and (output is None or dry_run):
        raise typer.BadParameter("--json describes the static network that -o DIR gets; leave out --dry-run or --json")


def check_outputs(*paths: Path | None) -> None:
    """Refuses files that cannot be written, before minutes of measuring; `-` is stdout, and None is no file."""
    from gate2static.files import check_writable

    for path in paths:
        if path is not None and path != Path("-"):
            check_writable(path, error=Gate2StaticError)


def prune_request(
    *,
    align: int,
    target: str,
    dtype: str | None,
    dynamic: str | None,
    tasks: str | None,
    budget: list[str] | None,
    threads: int | None,
    model: str | None,
) -> "PruneRequest":
    """Reads the options of `prune`, and refuses a budget together with options that change the cost it limits."""
    import torch

    from gate2static.bench import NETWORK_BACKENDS
    from gate2static.pipeline import PruneRequest
    from gate2static.recipe import parse_budget

    request = PruneRequest(
        align=align,
        target=target,
        dtype=getattr(torch, dtype) if dtype else None,
        dynamic=tuple(name.strip() for name in dynamic.split(",")) if dynamic else (),
        tasks=tuple(name.strip() for name in tasks.split(",")) if tasks else None,
        budget=parse_budget(budget) if budget else None,
        threads=threads,
        model=model,
    )
    if request.budget is None:
        return request
    if request.tasks is not None:
        raise typer.BadParameter("--budget is for the network of all tasks; leave out --tasks, and prune twice")
    device = request.budget.device
    backends = ", ".join(NETWORK_BACKENDS)
    if request.is_aligned:
        raise typer.BadParameter(
            "--budget counts the channels that are needed; --align and --target trt add others: leave out one"
        )
    if device is not None and dtype is not None:
        raise typer.BadParameter("a latency is that of the network as trained; leave out --dtype")
    if device not in NETWORK_BACKENDS and threads is not None:
        raise typer.BadParameter(
            f"--threads is for a latency that is timed: --budget device=NAME, one of {backends}"
        )
    if device is not None and device not in NETWORK_BACKENDS and target != "any":
        raise typer.BadParameter(
            "a latency is predicted for --target any; leave out --target, or have it timed on this machine with "
            f"--budget device=NAME, one of {backends}"
        )
    return request


def engine_backends(
    *, trt: bool, trt_rtx: bool, fp16: bool, int8: bool, compute_capability: list[str] | None
) -> list["TrtBackend"]:
    """Returns the libraries to build engines with, and refuses options of `export` that exclude each other."""
    if fp16 and int8:
        raise typer.BadParameter("--fp16 and --int8 exclude each other; export twice to have both")
    if compute_capability and not trt_rtx:
        raise typer.BadParameter("--compute-capability is for engines of TensorRT-RTX; add --trt-rtx")
    backends: list[TrtBackend] = []
    if trt:
        backends.append("tensorrt")
    if trt_rtx:
        backends.append("tensorrt-rtx")
    return backends


def batch_sizes(batch: str | None) -> dict[str, Any]:
    """Returns the arguments of `export_package` that `--batch` stands for: one size, or a range."""
    if batch is None:
        return {}
    sizes = [int(part) if part.strip().isdecimal() else 0 for part in batch.split(",")]
    if len(sizes) not in (1, 3) or not all(1 <= size <= _LARGEST_BATCH for size in sizes) or sizes != sorted(sizes):
        raise typer.BadParameter(
            f"--batch is {batch!r}; allowed is one size, such as 1, or the smallest, the usual and the largest, such "
            "as 1,1,8"
        )
    return {"batch_size": sizes[0]} if len(sizes) == 1 else {"batch": tuple(sizes)}


def share(text: str, *, option: str) -> float:
    """Returns the share that `1%` or `0.01` stands for."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{option} is {text!r}; allowed is a share, such as 1% or 0.01")
    return value


def evaluation_recipe(recipe: Path | None, overrides: list[str] | None) -> "Recipe | None":
    """Returns the recipe to evaluate with; None where that of the networks' run is taken as it is."""
    from gate2static.recipe import load_recipe

    if recipe is None and overrides:
        raise typer.BadParameter("--set changes a recipe that --recipe names")
    return None if recipe is None else load_recipe(recipe, overrides or ())


def use_threads(threads: int | None) -> None:
    """Lets torch compute with as many threads, where a number is given."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def latency_overrides(budget_ms: float | None, device: str | None) -> list[str]:
    """Returns the changes to a recipe that `train --budget-ms` stands for; none without it.

    Raises:
        RecipeError: One of the two options is given without the other.
    """
    if budget_ms is None and device is None:
        return []
    if budget_ms is None or device is None:
        raise RecipeError(
            "--budget-ms and --device belong together: milliseconds on what; give both, such as "
            "--budget-ms 8 --device board.json (`gate2static profile` measures one)"
        )
    return ["gating.preset=deploy", f"budget={{latency_ms: {budget_ms!r}, device: {json.dumps(device)}}}"]


def report_folder(run_dirs: Sequence[Path], output: Path | None) -> Path | None:
    """Returns the folder of a report over several runs; None for the report of one run, which lies in its folder.

    Raises:
        Gate2StaticError: Several runs have no folder for their page, or one run has one.
    """
    if len(run_dirs) == 1 and output is None:
        return None
    if output is None:
        raise Gate2StaticError(f"a report over {len(run_dirs)} runs lies in a folder of its own; give -o FOLDER")
    if len(run_dirs) == 1:
        raise Gate2StaticError("the report of one run lies in the run's folder; leave out -o, or give several runs")
    if len({run_dir.resolve() for run_dir in run_dirs}) < len(run_dirs):
        raise Gate2StaticError("a run is given twice, which would count as two seeds; give each run once")
    return output


def runs_of_seeds(seeds: str | None) -> list[tuple[list[str], str]]:
    """Returns the runs that `--seeds` asks for: the changes to the recipe, and the folder inside the run's folder.

    Raises:
        RecipeError: A seed is no number, or stands there twice.
    """
    if seeds is None:
        return [([], "")]
    words = seeds.split(",")
    if not all(word.isascii() and word.isdigit() for word in words) or len(set(words)) < len(words):
        raise RecipeError(f"--seeds: found {seeds!r}; allowed are different whole numbers with commas, such as 0,1,2")
    return [([f"seed={int(word)}"], f"seed-{int(word)}") for word in words]
