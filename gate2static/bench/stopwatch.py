"""Latencies of static networks that are made one after another."""

from gate2static.bench.backends import NETWORK_BACKENDS
from gate2static.bench.report import LatencyReport
from gate2static.bench.rounds import benchmark
from gate2static.errors import BenchError
from gate2static.static import StaticModel


class Stopwatch:
    """Times static networks on this machine, each beside the first: a slow spell of the machine meets both.

    Args:
        backend: one of `NETWORK_BACKENDS`.
        rounds: how often both are loaded and timed.
        duration_s: seconds of timed runs of each.
        threads: CPU threads; None: as many as torch uses.

    Raises:
        BenchError: another backend.
    """

    def __init__(self, backend: str, *, rounds: int = 9, duration_s: float = 3.0, threads: int | None = None) -> None:
        if backend not in NETWORK_BACKENDS:
            raise BenchError(f"static networks are not timed on {backend!r}; allowed: {', '.join(NETWORK_BACKENDS)}")
        self._backend, self._rounds, self._duration_s, self._threads = backend, rounds, duration_s, threads
        self._first: tuple[StaticModel, float] | None = None

    def __call__(self, static: StaticModel) -> float:
        """Latency in ms of one sample, as if the machine were still as fast as at the first call.

        Raises:
            BenchError: the network fails on the backend.
            MissingDependencyError: the backend's library or GPU is not there.
        """
        if self._first is None:
            self._first = static, self._time(static).targets[0].median_ms
            return self._first[1]
        first, first_ms = self._first
        report = self._time(first, static)
        return first_ms * report.ratio(report.targets[1])

    def _time(self, *statics: StaticModel) -> LatencyReport:
        return benchmark(
            statics,
            backends=[self._backend],
            rounds=self._rounds,
            duration_s=self._duration_s,
            threads=self._threads,
            progress=False,
        )
