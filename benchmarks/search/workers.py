"""Times a search of one worker against one of two, each on its own core: `python -m benchmarks.search.workers`.

Workers are started as users start them, so what they take to start counts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from gate2static.front.records import load_trials

RECIPE = "recipes/digits_tiny.yaml"
TRAINING = ("data.options.train_images=512", "training.single.epochs=4", "training.shared.epochs=4")
"""Enough for every metric of the baselines to be above 0, without which gains have no value."""
SPACE = "{sparsity_weight: {log: [1, 100]}, gating.group_size: [1, 4, layer]}"


def main() -> None:
    """Prints the seconds of both searches, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        one, two = (_seconds(Path(folder) / f"workers-{count}", count, trials) for count in (1, 2))
    print(f"{trials} trials: {one:.1f} s with one worker, {two:.1f} s with two, a ratio of {two / one:.2f}")


def _seconds(folder: Path, count: int, trials: int) -> float:
    part = f"search={{space: {SPACE}, trials: {trials}, sampler: random}}"
    command = [sys.executable, "-m", "gate2static", "search", RECIPE, "--run-dir", str(folder), "--set", part]
    command += [word for change in TRAINING for word in ("--set", change)]
    threads = {"OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **threads},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(os.sched_setaffinity, 0, {core}),
        )
        for core in sorted(os.sched_getaffinity(0))[:count]
    ]
    for worker in workers:
        if worker.wait():
            raise SystemExit(f"a worker ended with {worker.returncode}; try its command: {' '.join(command)}")
    seconds = time.perf_counter() - begin
    if len(workers) < count or len(load_trials(folder)) != trials:
        raise SystemExit(f"{count} workers on {len(workers)} cores ended {len(load_trials(folder))} trials")
    return seconds


if __name__ == "__main__":
    main()
