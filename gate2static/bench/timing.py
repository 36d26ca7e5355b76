"""trtexec's protocol: warm up, then run for a time and for a number of runs, whichever is longer."""

import gc
import time
from collections.abc import Callable, Sequence


def time_runs(
    run: Callable[[], Sequence[float]], *, warmup_s: float, duration_s: float, min_runs: int
) -> tuple[float, ...]:
    """Latencies in ms of runs made after the warm-up.

    Args:
        run: makes one or more runs and gives their latencies in ms.
        warmup_s: seconds of runs that do not count; at least one is made.
        duration_s: seconds of runs that count, at least.
        min_runs: how many runs count, at least.
    """
    _run_for(run, duration_s=warmup_s, min_runs=1)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a run would be taken for the network's time
    try:
        return tuple(_run_for(run, duration_s=duration_s, min_runs=min_runs))
    finally:
        if collecting:
            gc.enable()


def host_timer(run: Callable[[], object]) -> Callable[[], Sequence[float]]:
    """A runner's `run` for a network that has finished when its call returns: the wall clock around each call."""

    def timed() -> tuple[float]:
        start = time.perf_counter_ns()
        run()
        return ((time.perf_counter_ns() - start) / 1e6,)

    return timed


def _run_for(run: Callable[[], Sequence[float]], *, duration_s: float, min_runs: int) -> list[float]:
    latencies_ms: list[float] = []
    end = time.perf_counter() + duration_s
    while len(latencies_ms) < min_runs or time.perf_counter() < end:
        latencies_ms.extend(run())
    return latencies_ms
