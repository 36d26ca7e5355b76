"""Measured times of one kind of kernel over its sizes, and the times between the measured ones."""

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

_MOST_AXES = 10
"""The most sizes of a kernel; each doubles the corners of a cell."""
_LARGEST_SIZE = 2**62


class Grid(BaseModel):
    """Times of one kind of kernel at every combination of some sizes.

    Between grid points the time is linear in logarithms along every axis: exact at the points, and monotone between
    them. Below the grid it stays at the edge's time, since small operators cost their launch. Above, it grows in
    proportion.

    Attributes:
        kind: The kind of the kernel, `Kernel.kind`.
        axes: The measured values of each of `Kernel.sizes`, ascending.
        ms: The times in ms, in row-major order with the last axis fastest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    axes: tuple[tuple[int, ...], ...] = Field(min_length=1, max_length=_MOST_AXES)
    ms: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(map(_is_ascending, self.axes)):
            raise ValueError(f"the axes of {self.kind!r} must be ascending positive sizes")
        points = math.prod(map(len, self.axes))
        if len(self.ms) != points:
            raise ValueError(f"{self.kind!r} has {len(self.ms)} times for {points} grid points")
        if not all(0 < ms < math.inf for ms in self.ms):
            raise ValueError(f"the times of {self.kind!r} must be positive and finite")
        return self

    def at(self, sizes: tuple[int, ...]) -> float:
        """Returns the time in ms at some sizes, as many as there are axes."""
        positions = [_position(axis, size) for axis, size in zip(self.axes, sizes, strict=True)]
        logarithms = np.log(self.ms).reshape([len(axis) for axis in self.axes])
        total = sum(position.above for position in positions)
        # Multilinear: each corner of the cell around the sizes, weighted by how near it is along every axis.
        for corner in product((0, 1), repeat=len(positions)):
            sides = list(zip(corner, positions, strict=True))
            weight = math.prod(position.way if upper else 1 - position.way for upper, position in sides)
            if weight:
                index = tuple(position.below + upper for upper, position in sides)
                total += weight * float(logarithms[index])
        return math.exp(total)


@dataclass(frozen=True)
class _Position:
    """A size on an axis of a grid.

    Attributes:
        below: The number of the grid point below the size.
        way: How far the size is on the way to the next grid point in logarithms, 0 to 1.
        above: The logarithm of the size over the last grid point, or 0 within the grid.
    """

    below: int
    way: float
    above: float


def _position(axis: tuple[int, ...], size: int) -> _Position:
    if size <= axis[0]:
        return _Position(0, 0.0, 0.0)
    if size >= axis[-1]:
        return _Position(len(axis) - 1, 0.0, math.log(size / axis[-1]))
    below = int(np.searchsorted(axis, size, side="right")) - 1
    way = math.log(size / axis[below]) / math.log(axis[below + 1] / axis[below])
    return _Position(below, way, 0.0)


def _is_ascending(axis: tuple[int, ...]) -> bool:
    return len(axis) > 0 and 0 < axis[0] <= axis[-1] <= _LARGEST_SIZE and all(a < b for a, b in pairwise(axis))
