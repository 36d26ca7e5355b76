"""Latencies as they were measured, and the statistics that follow from them."""

from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gate2static.bench.environment import Environment
from gate2static.errors import BenchError
from gate2static.files import read_bytes, write_atomically

UNSTABLE_CV = 0.025  # trtexec's limit for the coefficient of variation


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Transfers(_Frozen):
    """Copies between pinned host memory and the device, which latencies leave out."""

    upload_ms: float
    download_ms: float


class TargetLatency(_Frozen):
    """One target on one backend.

    Attributes:
        name: as the user named it, or the file's name.
        precision: "fp32", "fp16" or "int8".
        rounds_ms: per round, the latency of every run in ms; every target was loaded, timed and closed once a round.
        transfers: the median over the rounds; None on the CPU.
    """

    name: str
    backend: str
    precision: str
    rounds_ms: tuple[tuple[float, ...], ...] = Field(min_length=1)
    transfers: Transfers | None = None

    @property
    def runs(self) -> int:
        """How many runs were timed."""
        return sum(len(samples) for samples in self.rounds_ms)

    def percentile_ms(self, percent: float) -> float:
        """The latency in ms that `percent` of all runs stay below."""
        return float(np.percentile(np.concatenate(self.rounds_ms), percent))

    @property
    def median_ms(self) -> float:
        """The latency that half of all runs stay below."""
        return self.percentile_ms(50)

    @property
    def mean_ms(self) -> float:
        """Mean over all runs."""
        return float(np.concatenate(self.rounds_ms).mean())

    @property
    def variation(self) -> float:
        """Coefficient of variation: standard deviation over mean, of all runs."""
        return float(np.concatenate(self.rounds_ms).std()) / self.mean_ms

    @property
    def stable(self) -> bool:
        """Whether the variation is within trtexec's 2.5 %."""
        return self.variation <= UNSTABLE_CV


class TimingProtocol(_Frozen):
    """How it was measured.

    Attributes:
        warmup_s: seconds before the timed runs of every round.
        duration_s: seconds of timed runs of each target, over all rounds.
        min_runs: timed runs of each target, over all rounds, at least.
    """

    batch_size: int
    rounds: int
    warmup_s: float
    duration_s: float
    min_runs: int


class LatencyReport(_Frozen):
    """What `benchmark` measured; `targets[0]` is what the others are compared with."""

    format: Literal[1] = 1
    protocol: TimingProtocol
    environment: Environment
    targets: tuple[TargetLatency, ...] = Field(min_length=1)

    def __getitem__(self, name: str) -> TargetLatency:
        """The first entry of a target."""
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    def reference(self, target: TargetLatency) -> TargetLatency:
        """What a target is compared with: the first target on the same backend."""
        return next(other for other in self.targets if other.backend == target.backend)

    def round_ratios(self, target: TargetLatency, over: TargetLatency | None = None) -> tuple[float, ...]:
        """Per round, median latency of `target` over that of `over`: neighbours in time, so a slow spell cancels.

        Args:
            target: one of this report's.
            over: another of this report's; None: `reference(target)`.
        """
        pairs = zip(target.rounds_ms, (over or self.reference(target)).rounds_ms, strict=True)
        return tuple(median(found) / median(reference) for found, reference in pairs)

    def ratio(self, target: TargetLatency, over: TargetLatency | None = None) -> float:
        """Median of `round_ratios`; below 1, `target` is the faster one."""
        return median(self.round_ratios(target, over))

    def to_json(self, path: str | Path) -> None:
        """Write the report, whole or not at all.

        Raises:
            BenchError: the file cannot be written.
        """
        write_atomically(Path(path), self.model_dump_json(indent=1).encode() + b"\n", error=BenchError)

    @classmethod
    def from_json(cls, path: str | Path) -> "LatencyReport":
        """Read a report.

        Raises:
            BenchError: missing, not a report, or from a newer format.
        """
        try:
            return cls.model_validate_json(read_bytes(Path(path), what="latency report", error=BenchError))
        except ValidationError as failure:
            first = failure.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise BenchError(
                f"{path} is not a latency report: {where}: {first['msg']}; make one with `gate2static bench --json`"
            ) from None
