"""Parts: the emitted tensors that hold the channels of a value."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gate2static.errors import PruneError
from gate2static.graphs import Ids


@dataclass(frozen=True)
class Part:
    """One emitted tensor.

    Attributes:
        node: The tensor; a plain Python value where the program's value is not a tensor.
        ids: The pool channels that it holds, in their order along the tensor's channel dimension.
    """

    node: Any
    ids: Ids


@dataclass(frozen=True)
class Parts:
    """The emitted tensors of one value, which together hold its needed channels.

    Attributes:
        parts: In any order.
        dim: The dimension along which they have their channels; None where the value is opaque.
    """

    parts: tuple[Part, ...]
    dim: int | None

    def place(self, ids: Ids) -> tuple[Ids, Ids]:
        """Returns the number of the part and the position inside it of each channel; -1 where no part holds it."""
        largest = [int(part.ids.max(initial=-1)) for part in self.parts]
        size = 1 + max([*largest, int(ids.max(initial=-1))])
        number = np.full(size, -1, dtype=np.int64)
        position = np.zeros(size, dtype=np.int64)
        for i, part in enumerate(self.parts):
            number[part.ids] = i
            position[part.ids] = np.arange(len(part.ids))
        return number[ids], position[ids]

    def hold(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Returns which of the channels were emitted."""
        return self.place(ids)[0] >= 0

    def hold_as_one(self, ids: Ids) -> bool:
        """Returns whether one tensor holds exactly `ids`, in that order."""
        return any(np.array_equal(part.ids, ids) for part in self.parts)

    def whole(self, value: int) -> Any:
        """Returns the emitted value number `value` of an opaque pool.

        Raises:
            PruneError: It was not emitted.
        """
        holder = next((part for part in self.parts if value in part.ids), None)
        if holder is None:
            raise not_computed(f"value {value}")
        return holder.node


def not_computed(what: str) -> PruneError:
    """Returns the error for a consumer that reads what was not emitted."""
    return PruneError(f"{what} is read and was not computed; this is a fault of gate2static's, please report it.")
