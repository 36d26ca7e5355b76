"""The objectives of a front: how each is read from a trial, in which unit, and which direction is better."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from gate2static.front.records import NetworkRecord, Objective, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What an objective means.

    Attributes:
        title: Its name with its unit, for tables and axes.
        higher_is_better: Whether a higher value is better.
        scale: The factor from its value to the unit of `title`.
        digits: The digits behind the point in the unit of `title`.
    """

    title: str
    higher_is_better: bool
    scale: float = 1.0
    digits: int = 3


KINDS: dict[Objective, Kind] = {
    "delta_mtl": Kind(title="Δ_MTL (%)", higher_is_better=True, scale=100, digits=2),
    "worst_task": Kind(title="worst task's gain (%)", higher_is_better=True, scale=100, digits=2),
    "macs": Kind(title="MACs / separate", higher_is_better=False),
    "latency_ms": Kind(title="latency (ms)", higher_is_better=False),
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: The mean.
        std: The standard deviation over the seeds (n - 1); None for one seed.
    """

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Returns the mean of at least one value."""
        return cls(mean=mean(values), std=stdev(values) if len(values) > 1 else None)

    def text(self, kind: Kind) -> str:
        """Returns the estimate in the unit of its objective, such as `1.20 ± 0.31`."""
        value = f"{kind.scale * self.mean:.{kind.digits}f}"
        return value if self.std is None else f"{value} ± {kind.scale * self.std:.{kind.digits}f}"


def value_of(network: NetworkRecord, objective: Objective) -> float | None:
    """Returns an objective of one network; None where it has no value."""
    if objective == "macs":
        return network.gated.macs / network.separate.macs if network.separate.macs else None
    if objective == "latency_ms":
        return network.latency_ms
    return network.gated.delta_mtl if objective == "delta_mtl" else network.gated.worst_task


def estimate(networks: tuple[NetworkRecord, ...], objective: Objective) -> Estimate | None:
    """Returns an objective over networks that differ in their seed; None where one of them has no value."""
    values = [value_of(network, objective) for network in networks]
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    return Estimate.of(numbers)


def means(record: TrialRecord, objectives: tuple[Objective, ...]) -> list[float] | None:
    """Returns a trial's objectives, each over its seeds; None where one of them has no value."""
    estimates = [estimate(record.networks, objective) for objective in objectives]
    values = [each.mean for each in estimates if each is not None]
    return values if len(values) == len(objectives) else None
