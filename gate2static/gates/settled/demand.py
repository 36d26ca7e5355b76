"""What is left to do in a unit some of whose gates are settled: what is computed, and what becomes of it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]

_NEARLY = 0.9
"""From this share on, copying all channels is cheaper than picking some."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Which channels of each stream a unit computes, and which rows its gate makes of them.

    The rows are ψ's that tasks or the shared stream pass on, then each task's own, then the mixed ones.

    Attributes:
        settled: (T, C), the gates that are settled.
        specific: (T, C), the sides of all gates.
        read: (T+1,), the streams that are read behind the gate.
    """

    settled: Bools
    specific: Bools
    read: Bools

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.settled)

    @property
    def shared(self) -> Bools:
        """(T, C), where a task takes ψ for good."""
        shared: Bools = self.settled & ~self.specific
        return shared

    @cached_property
    def undecided(self) -> list[Ids]:
        """For each task, the channels of which both φ_t and ψ are needed."""
        return [np.flatnonzero(~self.settled[t] & needed) for t, needed in enumerate(self._needed)]

    @cached_property
    def computed(self) -> list[Ids]:
        """For each stream, the channels that its layer must compute: a task's undecided ones, then its own for good."""
        settled_own = [np.flatnonzero((self.settled & self.specific)[t] & n) for t, n in enumerate(self._needed)]
        own = [np.concatenate(both) for both in zip(self.undecided, settled_own, strict=True)]
        takes_shared = (self._needed[:, None] & ~(self.settled & self.specific)).any(0)
        return [*own, np.flatnonzero(takes_shared)]

    @cached_property
    def mixed(self) -> Ids:
        """Channels of which the shared stream goes on as more than ψ."""
        return np.flatnonzero(~self.shared.all(0) & self.read[-1])

    @cached_property
    def passed_on(self) -> Ids:
        """Channels of ψ that some stream goes on with; all that are computed where that is nearly the same."""
        by_tasks = (self.shared & self.read[:-1, None]).any(0)
        found = np.flatnonzero(by_tasks | (self.shared.all(0) & self.read[-1]))
        return self.computed[-1] if len(found) > _NEARLY * len(self.computed[-1]) else found

    @cached_property
    def starts(self) -> list[int]:
        """Where the rows of ψ, of each task and of the mix start; last, how many rows there are."""
        sizes = [len(ids) for ids in (self.passed_on, *self.computed[:-1], self.mixed)]
        return [0, *np.cumsum(sizes).tolist()]

    @cached_property
    def views(self) -> Ids:
        """(T+1, C), the row that is each stream's channel; -1 in streams that nobody reads."""
        views = np.full((self.tasks + 1, self.settled.shape[1]), -1)
        for stream in np.flatnonzero(self.read):
            own = self.mixed if stream == self.tasks else self.computed[stream]
            views[stream, self.passed_on] = np.arange(len(self.passed_on))
            views[stream, own] = self.starts[stream + 1] + np.arange(len(own))
        return views

    @property
    def _needed(self) -> Bools:
        """(T,), whether a task's picked feature is read, by the task or by the mix."""
        needed: Bools = self.read[:-1] | self.read[-1]
        return needed
