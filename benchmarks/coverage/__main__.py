"""Which networks gate2static takes, and how much it removes: writes docs/coverage.md.

Run:  python -m benchmarks.coverage             (from the repository's root; under an hour on 2 cores)
      python -m benchmarks.coverage --resume    (only what is missing or failed in the results folder)

Every network runs in a process of its own, which is stopped when it needs too much time or memory.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import DOCS, ROOT
from benchmarks.coverage.models import SUITES, Case, cases, choose_smallest
from benchmarks.coverage.page import COLUMNS, passed, write_page

_POLL_S = 0.2
_OVER_MEMORY = "needs more than"


def main() -> None:
    """Run the cases and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, action="append", help="default: both")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models or families; the page is not written")
    parser.add_argument("--skip", nargs="+", default=[], choices=COLUMNS, help="columns; onnx takes half of the time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; 0 only writes the page")
    parser.add_argument("--resume", action="store_true", help="keep what passed in the results folder")
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "coverage", help="one JSON file a network")
    parser.add_argument("--page", type=Path, default=DOCS / "coverage.md")
    parser.add_argument("--time-limit", type=float, default=300.0, metavar="SECONDS", help="for one network")
    parser.add_argument("--memory-limit", type=float, metavar="GB", help="for one; default: the free memory shared out")
    parser.add_argument("--choose", action="store_true", help="look for the smallest models of timm first")
    arguments = parser.parse_args()
    if arguments.choose:
        choose_smallest()
    chosen = cases(tuple(arguments.suite or SUITES))
    if arguments.only:
        wanted = set(arguments.only)
        chosen = [c for c in chosen if wanted & {c.model, c.family}]
        if unknown := wanted - {name for c in chosen for name in (c.model, c.family)}:
            parser.error(f"there is no model or family {', '.join(sorted(unknown))}.")
    arguments.results.mkdir(parents=True, exist_ok=True)
    todo = [c for c in chosen if not (arguments.resume and passed(read(arguments.results, c), arguments.skip))]
    if arguments.jobs:
        limit = arguments.memory_limit or 0.85 * _free_gb() / arguments.jobs
        runner = partial(Runner, arguments.results, arguments.skip, arguments.time_limit)
        runner(limit).run(todo, arguments.jobs)
        # What needs more than its share may have everything, alone.
        large = [c for c in todo if _OVER_MEMORY in json.dumps(read(arguments.results, c).get("columns", {}))]
        if large and arguments.jobs > 1 and arguments.memory_limit is None:
            runner(limit * arguments.jobs).run(large, 1)
    results = [read(arguments.results, c) for c in chosen]
    if not arguments.only:
        write_page(arguments.page, results)
    good = sum(passed(result, arguments.skip) for result in results)
    print(f"{good} of {len(results)} pass every column" + " that was not skipped" * bool(arguments.skip))


def read(folder: Path, case: Case) -> dict[str, Any]:
    """The result of a case as far as there is one."""
    base = {"suite": case.suite, "family": case.family, "model": case.model, "columns": {}, "seconds": {}}
    path = _path(folder, case)
    return base | json.loads(path.read_text()) if path.is_file() else base


class Runner:
    """Runs cases in processes of their own.

    Args:
        results: folder of the JSON files.
        skip: columns to leave out.
        time_limit_s: for one case.
        memory_limit_gb: resident memory of one case.
    """

    def __init__(self, results: Path, skip: list[str], time_limit_s: float, memory_limit_gb: float) -> None:
        self.results, self.skip = results, skip
        self.time_limit_s, self.memory_limit_gb = time_limit_s, memory_limit_gb
        self.stopping = threading.Event()

    def run(self, todo: list[Case], jobs: int) -> None:
        """Run all, with a progress bar."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
        )  # fmt: skip
        with Progress(*columns) as progress, ThreadPoolExecutor(jobs) as pool:
            bar = progress.add_task("coverage", total=len(todo))
            futures = {pool.submit(self._run_case, case): case for case in todo}
            try:
                for future in as_completed(futures):
                    future.result()
                    case = futures[future]
                    result = read(self.results, case)
                    progress.update(bar, advance=1, description=case.model)
                    for column, found in result["columns"].items():
                        if found != "ok":
                            progress.print(f"{case.model}: {column}: {found[:200]}", markup=False, highlight=False)
            except BaseException:
                self.stopping.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _run_case(self, case: Case) -> None:
        path = _path(self.results, case)
        path.unlink(missing_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        what = (case.suite, case.family, case.model, str(path), *self.skip)
        command = [sys.executable, "-m", "benchmarks.coverage.case", *what]
        log = path.with_suffix(".log")
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            reason = self._watch(process)
        if reason is None and process.returncode == 0:
            return
        result = read(self.results, case)
        last = log.read_text().strip().splitlines()[-1:] or ["no message"]
        died = f"the process ended with status {process.returncode}: {last[0][:300]}"
        result["columns"][result.pop("running", "gate")] = reason or died
        path.write_text(json.dumps(result, indent=1))

    def _watch(self, process: subprocess.Popen[bytes]) -> str | None:
        """Wait; why the process had to be stopped, if so."""
        start = time.monotonic()
        reason = None
        while process.poll() is None and reason is None:
            time.sleep(_POLL_S)
            if time.monotonic() - start > self.time_limit_s:
                reason = f"needs more than {self.time_limit_s:.0f} s"
            elif _resident_gb(process.pid) > self.memory_limit_gb:
                reason = f"{_OVER_MEMORY} {self.memory_limit_gb:.1f} GB"
            elif self.stopping.is_set():
                reason = "interrupted"
        if reason is not None:
            process.kill()
            process.wait()
        return reason


def _path(folder: Path, case: Case) -> Path:
    return folder.resolve() / f"{case.suite}-{case.model}.json"


def _resident_gb(pid: int) -> float:
    """Resident memory of a process; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def _free_gb() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / 1e9


if __name__ == "__main__":
    main()
