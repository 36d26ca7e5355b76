"""A stopwatch for static networks that are built one after another."""

from gate2static.arguments import described
from gate2static.bench.backends import NETWORK_BACKENDS
from gate2static.bench.report import LatencyReport
from gate2static.bench.rounds import benchmark
from gate2static.errors import BenchError
from gate2static.static import StaticModel
from gate2static.static.model import static_model


class Stopwatch:
    """Times static networks on this machine, each side by side with the first one.

    A slow spell of the machine then affects both networks, and their ratio stays right.

    Args:
        backend: One of `NETWORK_BACKENDS`.
        rounds: The number of times that both networks are loaded and timed.
        duration_s: Seconds of timed runs per network.
        threads: CPU threads; None uses torch's number.

    Raises:
        BenchError: The backend does not run static networks.
    """

    def __init__(self, backend: str, *, rounds: int = 9, duration_s: float = 3.0, threads: int | None = None) -> None:
        if not isinstance(backend, str) or backend not in NETWORK_BACKENDS:
            allowed = ", ".join(NETWORK_BACKENDS)
            raise BenchError(f"static networks are not timed on {described(backend)}; allowed: {allowed}")
        self._backend = backend
        self._rounds = rounds
        self._duration_s = duration_s
        self._threads = threads
        self._first: tuple[StaticModel, float] | None = None

    def __call__(self, static: StaticModel) -> float:
        """Returns the latency of one sample in ms, as if the machine were still as fast as at the first call.

        Raises:
            BenchError: The argument is no static network, or it fails on the backend.
            MissingDependencyError: The backend's library or GPU is missing.
        """
        static = static_model(static, error=BenchError)
        if self._first is None:
            latency_ms = self._time(static).targets[0].median_ms
            self._first = (static, latency_ms)
            return latency_ms
        # The ratio is measured now, and the time belongs to the machine of the first call.
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
