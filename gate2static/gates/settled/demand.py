"""The demand of a unit some of whose gates are settled: what its layers compute, and what its gate makes of it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]

_NEARLY_ALL = 0.9
"""From this share of the channels on, copying all of them is cheaper than picking some."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The channels of each stream that a unit computes, and the distinct channels that its gate makes of them.

    A distinct channel is one channel of one or more streams: tasks that are settled on the shared feature have ψ's
    channel in common. They lie in one tensor: first ψ's channels that tasks or the shared stream pass on, then each
    task's own, then the mixed ones.

    Attributes:
        settled: (T, C), the gates that are settled.
        specific: (T, C), the sides of all gates; True is task-specific.
        read: (T+1,), the streams that are read behind the gate.
    """

    settled: Bools
    specific: Bools
    read: Bools

    @property
    def tasks(self) -> int:
        """T, the number of tasks."""
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
        """For each stream, the channels that its layer must compute.

        A task's are its undecided ones, followed by those that are its own for good. The shared stream's are those
        that some task takes, or may still take.
        """
        # (T, C)
        specific_for_good = self.settled & self.specific
        of_tasks = []
        for t, needed in enumerate(self._needed):
            decided = np.flatnonzero(specific_for_good[t] & needed)
            of_tasks.append(np.concatenate([self.undecided[t], decided]))
        # (C,)
        takes_psi = (self._needed[:, None] & ~specific_for_good).any(0)
        return [*of_tasks, np.flatnonzero(takes_psi)]

    @cached_property
    def mixed(self) -> Ids:
        """The channels of which the shared stream goes on as more than ψ."""
        return np.flatnonzero(~self.shared.all(0) & self.read[-1])

    @cached_property
    def passed_on(self) -> Ids:
        """The channels of ψ with which some stream goes on, or all that are computed where that is nearly the same."""
        # (C,): some task that is read takes ψ for good, or all do and the mix, which then is ψ, is read.
        by_tasks = (self.shared & self.read[:-1, None]).any(0)
        by_the_mix = self.shared.all(0) & self.read[-1]
        channels = np.flatnonzero(by_tasks | by_the_mix)
        psi = self.computed[-1]
        return psi if len(channels) > _NEARLY_ALL * len(psi) else channels

    @cached_property
    def starts(self) -> list[int]:
        """The positions at which ψ's distinct channels, each task's and the mixed ones start; last, their number."""
        # (T+2,): ψ, the tasks, the mix.
        sizes = [len(ids) for ids in (self.passed_on, *self.computed[:-1], self.mixed)]
        return [0, *np.cumsum(sizes).tolist()]

    @cached_property
    def views(self) -> Ids:
        """(T+1, C), the distinct channel that is each stream's channel; -1 in streams that nothing reads."""
        views = np.full((self.tasks + 1, self.settled.shape[1]), -1)
        for stream in np.flatnonzero(self.read):
            # ψ first, over which the channels of the task or of the mix are written.
            views[stream, self.passed_on] = np.arange(len(self.passed_on))
            channels = self.mixed if stream == self.tasks else self.computed[stream]
            views[stream, channels] = self.starts[stream + 1] + np.arange(len(channels))
        return views

    @property
    def _needed(self) -> Bools:
        """(T,), whether a task's picked feature is read, by the task or by the mix."""
        needed: Bools = self.read[:-1] | self.read[-1]
        return needed
