"""trtexec's protocol: a warm-up, then runs for a given time or a given number of runs, whichever is longer."""

import gc
import time
from collections.abc import Callable, Sequence


def time_runs(
    run: Callable[[], Sequence[float]], *, warmup_s: float, duration_s: float, min_runs: int
) -> tuple[float, ...]:
    """Returns the latencies in ms of the runs after the warm-up.

    Args:
        run: Makes one or more runs and returns their latencies in ms.
        warmup_s: Seconds of warm-up; at least one run is made.
        duration_s: The least number of seconds of timed runs.
        min_runs: The least number of timed runs.
    """
    # At least one run, in which libraries allocate memory and choose kernels.
    _run_for(run, duration_s=warmup_s, min_runs=1)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection during a run would count as the network's time
    try:
        return tuple(_run_for(run, duration_s=duration_s, min_runs=min_runs))
    finally:
        if was_enabled:
            gc.enable()


def host_timer(run: Callable[[], object]) -> Callable[[], Sequence[float]]:
    """Returns a runner's `run` that takes the wall clock around each call; the network must be done when it returns."""

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
