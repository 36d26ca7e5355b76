"""Measured latencies, and their statistics."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gate2static.arguments import require_path
from gate2static.bench.environment import Environment
from gate2static.errors import BenchError
from gate2static.files import write_atomically
from gate2static.strict_json import read_model

UNSTABLE_CV = 0.025
"""The coefficient of variation above which a measurement counts as unstable, as in trtexec."""


Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_LatencyMs = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Transfers(_Frozen):
    """The time of copies between pinned host memory and the device, which latencies do not include.

    Attributes:
        upload_ms: The time to copy the inputs to the device, in ms.
        download_ms: The time to copy the outputs to the host, in ms.
    """

    upload_ms: Milliseconds
    download_ms: Milliseconds


class TargetLatency(_Frozen):
    """The latency of one network on one backend.

    Attributes:
        name: The name that the user gave, or the file's name.
        backend: The backend's name.
        precision: "fp32", "fp16" or "int8".
        rounds_ms: The latency of every run in ms, per round. Every network was loaded, timed and closed once per round.
        transfers: The time of copies, as the median over the rounds; None on the CPU.
    """

    name: str
    backend: str
    precision: str
    rounds_ms: tuple[Annotated[tuple[_LatencyMs, ...], Field(min_length=1)], ...] = Field(min_length=1)
    transfers: Transfers | None = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yields what stands in `repr`: figures instead of the latency of every run."""
        yield from ((name, value) for name, value in super().__repr_args__() if name != "rounds_ms")
        yield "runs", self.runs
        yield "median_ms", round(self.median_ms, 4)
        yield "variation", round(self.variation, 4)

    @property
    def runs(self) -> int:
        """The number of timed runs."""
        return sum(len(samples) for samples in self.rounds_ms)

    def percentile_ms(self, percent: float) -> float:
        """Returns the latency in ms that `percent` per cent of all runs stay below."""
        return float(np.percentile(np.concatenate(self.rounds_ms), percent))

    @property
    def median_ms(self) -> float:
        """The median latency of all runs, in ms."""
        return self.percentile_ms(50)

    @property
    def mean_ms(self) -> float:
        """The mean latency of all runs, in ms."""
        return float(np.concatenate(self.rounds_ms).mean())

    @property
    def variation(self) -> float:
        """The coefficient of variation: the standard deviation over the mean of all runs."""
        return float(np.concatenate(self.rounds_ms).std()) / self.mean_ms

    @property
    def stable(self) -> bool:
        """Whether the variation is within trtexec's 2.5 %."""
        return self.variation <= UNSTABLE_CV


class TimingProtocol(_Frozen):
    """The settings of a measurement.

    Attributes:
        batch_size: Samples per run.
        rounds: The number of rounds.
        warmup_s: Seconds of untimed runs at the start of every round.
        duration_s: Seconds of timed runs per network, over all rounds.
        min_runs: The least number of timed runs per network, over all rounds.
    """

    batch_size: int
    rounds: int
    warmup_s: float
    duration_s: float
    min_runs: int


class LatencyReport(_Frozen):
    """The result of `benchmark`.

    Attributes:
        format: The version of the JSON format.
        protocol: The settings of the measurement.
        environment: The machine and the libraries.
        targets: The networks on their backends. The first network is the one that the others are compared with.
    """

    format: Literal[1] = 1
    protocol: TimingProtocol
    environment: Environment
    targets: tuple[TargetLatency, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rounds_fit(self) -> Self:
        rounds = {len(target.rounds_ms) for target in self.targets}
        if len(rounds) > 1:
            raise ValueError(f"targets have {' and '.join(map(str, sorted(rounds)))} rounds; all have the same number")
        return self

    def __getitem__(self, name: str) -> TargetLatency:
        """Returns the first entry with this name."""
        for target in self.targets:
            if target.name == name:
                return target
        raise KeyError(name)

    def reference(self, target: TargetLatency) -> TargetLatency:
        """Returns the network that a target is compared with: the first one on the same backend."""
        return next(other for other in self.targets if other.backend == target.backend)

    def round_ratios(self, target: TargetLatency, over: TargetLatency | None = None) -> tuple[float, ...]:
        """Returns the ratio of two networks' median latencies in every round.

        The two networks of a round run shortly after each other, so a slow spell of the machine cancels out.

        Args:
            target: The network in the numerator.
            over: The network in the denominator; None uses `reference(target)`.
        """
        reference = over or self.reference(target)
        # Medians of the same round: both ran within seconds of each other.
        rounds = zip(target.rounds_ms, reference.rounds_ms, strict=True)
        return tuple(median(target_ms) / median(reference_ms) for target_ms, reference_ms in rounds)

    def ratio(self, target: TargetLatency, over: TargetLatency | None = None) -> float:
        """Returns the median of `round_ratios`; below 1, `target` is faster."""
        return median(self.round_ratios(target, over))

    def to_json(self, path: str | Path) -> None:
        """Writes the report as JSON, whole or not at all.

        Raises:
            BenchError: The file cannot be written.
        """
        file = require_path(path, name="the latency report's path", error=BenchError)
        write_atomically(file, self.model_dump_json(indent=1).encode() + b"\n", error=BenchError)

    @classmethod
    def from_json(cls, path: str | Path) -> "LatencyReport":
        """Reads a report from JSON.

        Raises:
            BenchError: The file is missing, not a report, or of a newer format.
        """
        file = require_path(path, name="the latency report's path", error=BenchError)
        advice = "make one with `gate2static bench --json`"
        return read_model(file, cls, what="latency report", advice=advice, error=BenchError)
