"""The interface of runners."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from gate2static.bench.report import Transfers


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A loaded network with its inputs.

    Attributes:
        run: Makes one run, or a few runs queued back to back, and returns their latencies in ms without transfers.
        transfer: Times the copies of inputs to the device and of outputs to the host; None on the CPU.
        tensors: The inputs and outputs of an engine, in the order of its sidecar; None for other networks. A run
            overwrites the outputs.
    """

    run: Callable[[], Sequence[float]]
    transfer: Callable[[], Transfers] | None = None
    tensors: tuple[list[Tensor], list[Tensor]] | None = None


class OpenRunner(Protocol):
    """A function that loads a source and frees it when the block ends.

    An idle thread pool that is not freed would disturb the next network.
    """

    def __call__(self, source: Any, *, batch_size: int, threads: int) -> AbstractContextManager[Runner]:
        """Opens a source.

        Args:
            source: A source of the kind that the backend takes.
            batch_size: Samples per run.
            threads: CPU threads; backends on GPUs ignore the number.
        """
        ...
