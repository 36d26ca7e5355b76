"""Which emitted tensor holds which channels of a value."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gate2static.errors import PruneError
from gate2static.graphs import Ids


@dataclass(frozen=True)
class Part:
    """An emitted tensor and the pool channels it holds along the pool's dimension.

    `node` is a plain Python value where the program's value is not a tensor.
    """

    node: Any
    ids: Ids


@dataclass(frozen=True)
class Pool:
    """The emitted parts of one base value; `dim` is where they have their channels, None for opaque values."""

    parts: tuple[Part, ...]
    dim: int | None

    def place(self, ids: Ids) -> tuple[Ids, Ids]:
        """Part number and position inside it of each channel; -1 where no part holds it."""
        size = 1 + max(int(p.ids.max(initial=-1)) for p in (*self.parts, Part(None, ids.ravel())))
        part, position = np.full(size, -1, dtype=np.int64), np.zeros(size, dtype=np.int64)
        for number, p in enumerate(self.parts):
            part[p.ids], position[p.ids] = number, np.arange(len(p.ids))
        return part[ids], position[ids]

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which channels were emitted."""
        return self.place(ids)[0] >= 0

    def whole(self, value: int) -> Any:
        """The emitted value number `value` of an opaque pool."""
        found = next((p.node for p in self.parts if value in p.ids), None)
        if found is None:
            raise not_computed(f"value {value}")
        return found


def not_computed(what: str) -> PruneError:
    """What is said where a consumer reads what nobody emitted."""
    return PruneError(f"{what} is read and was not computed; this is a fault of gate2static's, please report it.")
