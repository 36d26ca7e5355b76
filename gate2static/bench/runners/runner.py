"""What a backend gives to be timed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from gate2static.bench.report import Transfers


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A network that is loaded and holds its inputs.

    Attributes:
        run: make one run, or a few queued back to back; their latencies in ms, without transfers.
        transfer: time the copies of inputs to and outputs from the device; None where there is no device.
    """

    run: Callable[[], Sequence[float]]
    transfer: Callable[[], Transfers] | None = None


class OpenRunner(Protocol):
    """Loads a source, and frees it when the block ends: an idle thread pool would disturb the next one timed."""

    def __call__(self, source: Any, *, batch_size: int, threads: int) -> AbstractContextManager[Runner]:
        """Open a source of the kind that the backend takes; `threads` is for CPU backends."""
        ...
