"""Latency tables: what the kernels of networks cost on one device and backend, as they were measured there.

A table is a file, so predicting from it needs neither the device nor the backend.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from gate2static.errors import BenchError
from gate2static.files import write_atomically
from gate2static.latency.grid import Grid
from gate2static.latency.kernel_kinds import Kernel
from gate2static.latency.kernels import Backend, Step, lower
from gate2static.latency.model import LatencyModel, OperatorCost, Precision, described
from gate2static.latency.operators import Operator
from gate2static.strict_json import read_model


class LatencyTable(BaseModel, LatencyModel):
    """Times of kernels, measured on one device; a network costs the sum of what its backend runs.

    The factors and additions say what kernels cost in whole networks beyond the grids, see `calibration`.

    Attributes:
        backend: The backend that ran the kernels; it decides which operators run as parts of others.
        threads: The number of CPU threads the kernels were given.
        precision: What the kernels computed in.
        environment: The machine and the versions of its libraries, for people.
        overhead_ms: The time in ms that a forward pass costs besides its kernels.
        layer_factor: How much longer layers take than alone. Its key in a file is `layers`.
        movement_factor: How much longer all other kernels take than alone: those that only move or map tensors. Its
            key in a file is `movement`.
        ms_per_weight_byte: The time in ms that each byte of a layer's weights adds.
        launch_ms: The time in ms that each kernel adds.
        grids: The measured times, one grid per kind of kernel.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ignored_types=(cached_property,),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )
    estimated: ClassVar[bool] = False  # type: ignore[misc]

    format: Literal["gate2static latency table"] = "gate2static latency table"
    version: Literal[1] = 1
    name: str
    backend: Backend
    threads: int = Field(ge=1)
    precision: Precision = "fp32"
    environment: dict[str, str] = {}
    overhead_ms: float = Field(ge=0)
    layer_factor: float = Field(default=1.0, gt=0, alias="layers")
    movement_factor: float = Field(default=1.0, gt=0, alias="movement")
    ms_per_weight_byte: float = Field(default=0.0, ge=0)
    launch_ms: float = Field(default=0.0, ge=0)
    grids: tuple[Grid, ...] = Field(min_length=1)

    def at(self, precision: Precision) -> "LatencyTable":
        """Returns the table, if it is of this precision.

        Raises:
            BenchError: It is of another one.
        """
        if precision != self.precision:
            raise BenchError(
                f"the latency table {self.name} was measured in {self.precision}, and {precision} is asked for; "
                "measure it on the board with `gate2static profile --emit DIR`, or predict from a data sheet"
            )
        return self

    def costs(self, operators: Sequence[Operator]) -> tuple[OperatorCost, ...]:
        """Returns the costs of the operators of one forward pass, see `LatencyModel`.

        Raises:
            BenchError: A layer is of a kind that was not measured, or its grid is damaged.
        """
        costs = [
            OperatorCost(
                operator=step.kernels[0].kind if step.kernels else step.operator.name,
                shapes=described(step.operator),
                ms=self._ms(step),
                macs=step.operator.macs,
                note=step.note,
            )
            for step in lower(operators, self.backend)
        ]
        return (*costs, OperatorCost(operator="a forward pass", shapes="", ms=self.overhead_ms))

    def kernel_ms(self, kernel: Kernel) -> float:
        """Returns the time in ms of a kernel alone.

        Raises:
            BenchError: The kernel is of a kind that was not measured, or its grid is damaged.
        """
        if kernel.kind not in self._by_kind:
            raise BenchError(
                f"the latency table {self.name} has no times of {kernel.kind!r}; it has {', '.join(self._by_kind)}. "
                "Profile this network: gate2static profile STATIC_DIR"
            )
        grid = self._by_kind[kernel.kind]
        if len(grid.axes) != len(kernel.sizes):
            raise BenchError(
                f"the latency table {self.name} is damaged: its times of {kernel.kind!r} have {len(grid.axes)} axes, "
                f"expected {len(kernel.sizes)}. Make it again: gate2static profile STATIC_DIR"
            )
        return grid.at(kernel.sizes)

    def save(self, path: str | Path) -> None:
        """Writes the table as JSON, whole or not at all.

        Args:
            path: The file; its folder is made where it is missing.

        Raises:
            BenchError: The file cannot be written; what stood there is untouched.
        """
        write_atomically(Path(path), (self.model_dump_json(indent=1) + "\n").encode(), error=BenchError)

    @cached_property
    def _by_kind(self) -> dict[str, Grid]:
        return {grid.kind: grid for grid in self.grids}

    def _ms(self, step: Step) -> float:
        """Returns the time in ms of one step in a whole network."""
        alone = sum(
            self.kernel_ms(kernel) * (self.layer_factor if is_layer(kernel) else self.movement_factor)
            for kernel in step.kernels
        )
        return alone + self.launch_ms * len(step.kernels) + self.ms_per_weight_byte * weight_bytes(step)


def is_layer(kernel: Kernel) -> bool:
    """Returns whether a kernel takes its time for arithmetic and not for moving or mapping tensors."""
    return "convolution" in kernel.kind or kernel.kind in ("linear", "matmul")


def weight_bytes(step: Step) -> int:
    """Returns the bytes of weights that a layer reads; 0 for all other steps."""
    if not any(is_layer(kernel) for kernel in step.kernels):
        return 0
    return sum(value.size_bytes for value in step.operator.inputs if value.is_constant)


def load_latency_table(path: str | Path) -> LatencyTable:
    """Reads a table that `LatencyTable.save` wrote.

    Args:
        path: The JSON file of the table.

    Raises:
        BenchError: The file is missing, damaged, no latency table, or of another format version.
    """
    advice = "`gate2static profile` makes one"
    return read_model(Path(path), LatencyTable, what="latency table", advice=advice, error=BenchError)
