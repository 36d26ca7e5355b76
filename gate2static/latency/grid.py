"""Measured times of one kind of unit over its sizes, and what lies between them."""

import math
from itertools import pairwise, product
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Grid(BaseModel):
    """Times of one kind of unit at every combination of some sizes.

    Between grid points the time is linear in logarithms, along every axis: exact at the points, monotone between them.
    Below the grid it stays at the edge's time, since small operators cost their launch; above, it grows in proportion.

    Attributes:
        kind: `Unit.kind`.
        axes: the measured values of each of `Unit.sizes`, ascending.
        ms: in row-major order, the last axis fastest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    axes: tuple[tuple[int, ...], ...] = Field(min_length=1)
    ms: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(axis and axis[0] > 0 and all(a < b for a, b in pairwise(axis)) for axis in self.axes):
            raise ValueError(f"the axes of {self.kind!r} must be ascending positive sizes")
        if len(self.ms) != math.prod(map(len, self.axes)):
            raise ValueError(f"{self.kind!r} has {len(self.ms)} times for {math.prod(map(len, self.axes))} grid points")
        if not all(0 < ms < math.inf for ms in self.ms):
            raise ValueError(f"the times of {self.kind!r} must be positive and finite")
        return self

    def at(self, sizes: tuple[int, ...]) -> float:
        """The time in ms at some sizes, as many as there are axes."""
        positions = [_position(axis, size) for axis, size in zip(self.axes, sizes, strict=True)]
        logarithms = np.log(self.ms).reshape([len(axis) for axis in self.axes])
        total = sum(beyond for _, _, beyond in positions)
        for corner in product((0, 1), repeat=len(positions)):
            weight = math.prod(f if up else 1 - f for up, (_, f, _) in zip(corner, positions, strict=True))
            if weight:
                index = tuple(i + up for up, (i, _, _) in zip(corner, positions, strict=True))
                total += weight * float(logarithms[index])
        return math.exp(total)


def _position(axis: tuple[int, ...], size: int) -> tuple[int, float, float]:
    """The grid point below, how far on the way to the next in logarithms, and the logarithm of what lies above all."""
    if size <= axis[0]:
        return 0, 0.0, 0.0
    if size >= axis[-1]:
        return len(axis) - 1, 0.0, math.log(size / axis[-1])
    below = int(np.searchsorted(axis, size, side="right")) - 1
    return below, math.log(size / axis[below]) / math.log(axis[below + 1] / axis[below]), 0.0
