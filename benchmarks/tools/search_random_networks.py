"""Search for a random network that pruning gets wrong, with fresh seeds at every run.

Run:  python -m benchmarks.tools.search_random_networks
Allowed: no failure in 10,000 networks. Each failure is cut down and printed as the case that makes it again; put it
into tests/prune/test_found_by_search.py once it is mended.
"""

import argparse
import dataclasses
import multiprocessing
import os
import random
import secrets
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.prune.random.checking import Case, check
from tests.prune.random.networks import HEADS, NAMES

_CASES_A_PROCESS = 500
"""torch.export's caches keep something of every network."""


def main() -> None:
    """Print every failure as it is found and end with status 1 if there was one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, help="of the first case; drawn when absent")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    first = secrets.randbelow(10**9) if arguments.seed is None else arguments.seed
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console()
    console.print(f"{arguments.cases} cases from seed {first}")
    failures = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        multiprocessing.get_context("spawn").Pool(arguments.processes, maxtasksperchild=_CASES_A_PROCESS) as pool,
    ):
        bar = progress.add_task("no failure", total=arguments.cases)
        for seed, report in pool.imap_unordered(search, range(first, first + arguments.cases)):
            if report:
                failures += 1
                console.print(f"seed {seed}: {report}\n", markup=False, highlight=False)
            progress.update(bar, advance=1, description=f"{failures or 'no'} failure{'s' * (failures > 1)}")
    sys.exit(1 if failures else 0)


def search(seed: int) -> tuple[int, str]:
    """The seed and what is wrong with its case; nothing where all is well."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    case = draw(seed)
    error = failure(case)
    if error is None:
        return seed, ""
    smallest = shrink(case, lambda smaller: failure(smaller) is not None)
    return seed, f"{failure(smallest)}\n{smallest}"


def draw(seed: int) -> Case:
    """A case; larger than those of the test."""
    rng = random.Random(seed)
    kind = rng.choice(sorted(NAMES))
    program = tuple((rng.choice(NAMES[kind]), rng.randrange(10_000)) for _ in range(rng.randint(1, 10)))
    return Case(
        kind=kind,
        program=program,
        outputs=rng.choice([1, 1, 2, 3]),
        structure=rng.randrange(5),
        heads=tuple(rng.choice(sorted(HEADS)) for _ in range(rng.randint(1, 3))),
        p=rng.choice([0.0, 0.2, 0.5, 0.8, 1.0]),
        group_size=rng.choice([1, 1, 2, 3]),
        align=rng.choice([1, 1, 1, 4]),
        seed=rng.randrange(1000),
        mixing=rng.choice(["softmax", "hard"]),
        tie_residual=rng.choice([False, True]),
    )


def failure(case: Case) -> str | None:
    """What is wrong with a case, in a line, and where it was raised."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            check(case, Path(folder) / "static" if case.seed % 4 == 0 else None)
    except Exception as error:  # noqa: BLE001 - an error of any kind is what is looked for
        places = [f for f in traceback.extract_tb(error.__traceback__) if "gate2static" in f.filename]
        place = f" (at {Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
        return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}{place}"
    return None


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """The case cut down for as long as it fails."""
    for _ in range(30):
        smaller = next(filter(fails, _smaller(case)), None)
        if smaller is None:
            break
        case = smaller
    return case


def _smaller(case: Case) -> Iterator[Case]:
    program = case.program
    for half in (program[len(program) // 2 :], program[: len(program) // 2]):
        if len(program) > 3:
            yield dataclasses.replace(case, program=half)
    for index in range(len(program)):
        yield dataclasses.replace(case, program=program[:index] + program[index + 1 :])
    for index in range(len(case.heads) if len(case.heads) > 1 else 0):
        yield dataclasses.replace(case, heads=case.heads[:index] + case.heads[index + 1 :])
    plainest = {"outputs": 1, "structure": 1, "group_size": 1, "align": 1, "p": 1.0}
    for name, plain in {**plainest, "mixing": "softmax", "tie_residual": False}.items():
        if getattr(case, name) != plain:
            yield dataclasses.replace(case, **{name: plain})


if __name__ == "__main__":
    main()
