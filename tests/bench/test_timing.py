"""The timing of one network, by a clock that only the test moves."""

import gc
import itertools
import time

import pytest

from gate2static.bench import timing
from gate2static.bench.timing import host_timer, time_runs


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the fake runs move; `clock[0]` is now, in seconds."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_warm_up_runs_do_not_count(clock: list[float]) -> None:
    numbers = itertools.count()

    def run() -> tuple[float]:
        clock[0] += 0.1
        return (float(next(numbers)),)

    # 0.2 s of warm-up at 0.1 s a run: runs 0 and 1.
    assert time_runs(run, warmup_s=0.15, duration_s=0.25, min_runs=1) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(("duration_s", "min_runs", "expected"), [(1.0, 3, 10), (0.0, 3, 3), (0.35, 10, 10)])
def test_both_the_time_and_the_number_of_runs_are_reached(
    clock: list[float], duration_s: float, min_runs: int, expected: int
) -> None:
    def run() -> tuple[float]:
        clock[0] += 0.1001
        return (100.1,)

    assert len(time_runs(run, warmup_s=0, duration_s=duration_s, min_runs=min_runs)) == expected


def test_one_run_warms_up_even_without_warm_up_time() -> None:
    calls: list[int] = []
    time_runs(lambda: calls.append(1) or (1.0,), warmup_s=0, duration_s=0, min_runs=2)
    assert len(calls) == 3


def test_no_garbage_is_collected_while_timing() -> None:
    assert gc.isenabled()
    states: list[bool] = []
    time_runs(lambda: states.append(gc.isenabled()) or (1.0,), warmup_s=0, duration_s=0, min_runs=1)
    assert states == [True, False]
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_a_failure() -> None:
    runs = iter([(1.0,)])
    with pytest.raises(StopIteration):
        time_runs(lambda: next(runs), warmup_s=0, duration_s=0, min_runs=1)
    assert gc.isenabled()


def test_the_host_timer_gives_milliseconds() -> None:
    [latency_ms] = host_timer(lambda: time.sleep(0.02))()
    assert 20 <= latency_ms < 200
