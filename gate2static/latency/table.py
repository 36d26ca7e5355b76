"""A latency table: what the units of networks cost on one device and backend, as they were measured there."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gate2static.errors import BenchError
from gate2static.files import write_atomically
from gate2static.latency.grid import Grid
from gate2static.latency.kernel_units import Unit
from gate2static.latency.kernels import Backend, Step, lower
from gate2static.latency.model import LatencyModel, OperatorCost, described
from gate2static.latency.operators import Operator


class LatencyTable(BaseModel, LatencyModel):
    """Times of units, measured on one device; a network costs the sum of what its backend runs.

    Attributes:
        backend: what ran the units; it decides which operators run as parts of others.
        threads: CPU threads the units were given.
        environment: the machine and the versions of its libraries, for people.
        overhead_ms: what a forward pass costs besides its units.
        layers, movement, ms_per_weight_byte, launch_ms: what units cost in whole networks beyond the grids, see
            `calibration`: a factor for layers and one for what only moves or maps tensors, an addition for each byte
            of weights, and one for each operator.
        grids: the measured times.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))
    estimated: ClassVar[bool] = False  # type: ignore[misc]

    format: Literal["gate2static latency table"] = "gate2static latency table"
    version: Literal[1] = 1
    name: str
    backend: Backend
    threads: int = Field(ge=1)
    environment: dict[str, str] = {}
    overhead_ms: float = Field(ge=0)
    layers: float = Field(default=1.0, gt=0)
    movement: float = Field(default=1.0, gt=0)
    ms_per_weight_byte: float = Field(default=0.0, ge=0)
    launch_ms: float = Field(default=0.0, ge=0)
    grids: tuple[Grid, ...] = Field(min_length=1)

    def costs(self, operators: Sequence[Operator]) -> tuple[OperatorCost, ...]:
        """See `LatencyModel`.

        Raises:
            BenchError: a layer of a kind that was not measured, or whose grid is damaged.
        """
        found = [
            OperatorCost(
                operator=step.units[0].kind if step.units else step.operator.name,
                shapes=described(step.operator),
                ms=self._ms(step),
                macs=step.operator.macs,
                note=step.note,
            )
            for step in lower(operators, self.backend)
        ]
        return (*found, OperatorCost(operator="a forward pass", shapes="", ms=self.overhead_ms))

    @cached_property
    def _by_kind(self) -> dict[str, Grid]:
        return {grid.kind: grid for grid in self.grids}

    def _ms(self, step: Step) -> float:
        alone = sum(self.unit_ms(unit) * (self.layers if is_layer(unit) else self.movement) for unit in step.units)
        return alone + self.launch_ms * len(step.units) + self.ms_per_weight_byte * weight_bytes(step)

    def unit_ms(self, unit: Unit) -> float:
        """A unit alone, in ms.

        Raises:
            BenchError: a unit of a kind that was not measured, or whose grid is damaged.
        """
        if unit.kind not in self._by_kind:
            raise BenchError(
                f"the latency table {self.name} has no times of {unit.kind!r}; it has {', '.join(self._by_kind)}. "
                "Profile this network: gate2static profile STATIC_DIR"
            )
        grid = self._by_kind[unit.kind]
        if len(grid.axes) != len(unit.sizes):
            raise BenchError(
                f"the latency table {self.name} is damaged: its times of {unit.kind!r} have {len(grid.axes)} axes, "
                f"expected {len(unit.sizes)}. Make it again: gate2static profile STATIC_DIR"
            )
        return grid.at(unit.sizes)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, whole or not at all.

        Raises:
            BenchError: the file cannot be written; what stood there is untouched.
        """
        write_atomically(Path(path), (self.model_dump_json(indent=1) + "\n").encode(), error=BenchError)


def is_layer(unit: Unit) -> bool:
    """Whether arithmetic is what a unit takes its time for."""
    return "convolution" in unit.kind or unit.kind in ("linear", "matmul")


def weight_bytes(step: Step) -> int:
    """Bytes of weights that a layer reads."""
    layer = any(is_layer(unit) for unit in step.units)
    return sum(value.size_bytes for value in step.operator.inputs if value.is_constant) if layer else 0


def load_latency_table(path: str | Path) -> LatencyTable:
    """Read a table that `LatencyTable.save` wrote.

    Raises:
        BenchError: missing, damaged, not a latency table, or of another format version.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BenchError(
            f"cannot read the latency table {path}: {error.strerror or error}; `gate2static profile` makes one"
        ) from error
    try:
        return LatencyTable.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BenchError(
            f"{path} is not a latency table, or a damaged one: {where}: {first['msg']}; make one with "
            "`gate2static profile`"
        ) from None
