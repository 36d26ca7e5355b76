"""The graph under construction, and the tensors cut and put together in it."""

import math
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_dims import to_canonical
from gate2static.prune.analysis.value import Value
from gate2static.prune.emission.parts import Part, Parts, not_computed

MIXES = "mixes"
"""The name under which the mixing weights of gates stand, a parameter per unit."""
_TOKENS_DIM = 2
"""The first dimension along which channels may lie last, as those of tokens (N, L, C) do."""
_LONG_RUN = 8
"""As many channels side by side are cut out rather than gathered one by one."""


class Writer:
    """Writes a graph; asked for the same cut or copy twice, it writes it once.

    Attributes:
        graph: The graph under construction.
        root: The owner of the modules and tensors that `graph` uses.
    """

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self._calls: dict[tuple[Any, ...], fx.Node] = {}

    def whole_value(self, value: Value, parts: Parts, ids: Ids) -> Any:
        """Emits a value in the shape that the user's code gave it, from its channels `ids`, which are all in order."""
        if value.dims is None:
            return parts.whole(int(ids[0]))
        return to_canonical(self.graph, self.view(parts, ids), value.shape, value.dims)

    def view(self, parts: Parts, ids: Ids) -> fx.Node:
        """Emits a tensor that holds exactly the channels `ids`, in that order.

        Raises:
            PruneError: One of them was not emitted.
        """
        # Nothing to do where one tensor is exactly what is asked for.
        for part in parts.parts:
            if np.array_equal(part.ids, ids):
                return part.node  # type: ignore[no-any-return]
        numbers, positions = parts.place(ids)
        if (numbers < 0).any():
            raise not_computed(f"channel {ids[numbers < 0][0]}")
        used = np.unique(numbers)
        changes = np.flatnonzero(np.diff(numbers)) + 1  # where the next channel lies in another part
        if len(changes) < len(used):
            # Each part is read once: a slice or a gather of each, side by side.
            pieces = []
            for number, at in zip(np.split(numbers, changes), np.split(positions, changes), strict=True):
                pieces.append(self._pick(parts.parts[number[0]], at, parts.dim))
            return self.concatenate(pieces, parts.dim)
        # Parts alternate: all of them side by side, and one gather.
        offsets = np.cumsum([0, *(len(parts.parts[number].ids) for number in used)])
        joined = self.concatenate([parts.parts[number].node for number in used], parts.dim)
        at = offsets[np.searchsorted(used, numbers)] + positions
        return self.gather(joined, at, parts.dim, int(offsets[-1]))

    def concatenate(self, nodes: Sequence[fx.Node], dim: int | None) -> fx.Node:
        """Emits one tensor of all; the tensor itself where there is only one."""
        if len(nodes) == 1:
            return nodes[0]
        return self._call_once(("cat", *nodes, dim), torch.cat, (list(nodes), dim))

    def gather(self, node: fx.Node, positions: Ids, dim: int | None, size: int) -> fx.Node:
        """Emits the channels at `positions`, of `size`.

        Along the last of several dimensions, as tokens have their channels, a gather copies number by number. So groups
        of channels are gathered where all runs consist of whole groups, and other runs are cut out where they are long.
        """
        if dim is None or dim < _TOKENS_DIM:
            return self._select(node, positions, dim)
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
        group = math.gcd(size, *(int(run[0]) for run in runs), *map(len, runs))
        if group < _LONG_RUN <= len(positions) / len(runs):
            return self.concatenate([self._slice(node, int(run[0]), len(run), dim) for run in runs], dim)
        if group == 1:
            return self._select(node, positions, dim)
        # (…, size) -> (…, size / group, group): a group is copied in one piece
        groups = self._call_once(("groups", node, dim, group), torch.unflatten, (node, dim, [size // group, group]))
        chosen = self._select(groups, positions[::group] // group, dim)
        return self._call_once(("together", chosen, dim), torch.flatten, (chosen, dim, dim + 1))

    def constant(self, value: Tensor) -> fx.Node:
        """Stores a tensor of the static network that was not trained, and emits a read of it."""
        name = f"constant_{len(self.root._buffers)}"
        self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def parameter(self, value: Tensor, name: str) -> fx.Node:
        """Stores a tensor of the static network that was trained, and emits a read of it."""
        trained = nn.Parameter(value.detach().clone(), requires_grad=False)
        return self.graph.get_attr(self.keep_as(name, trained))

    def keep_as(self, name: str, value: nn.Module | nn.Parameter) -> str:
        """Keeps a module or parameter of the static network under the next free name like `name`, and returns that."""
        owner = self.root
        *around, leaf = name.split(".")
        path = []
        for step in around:
            # What is no module there is a method of torch's modules, which a layer may be called like.
            while step not in owner._modules and hasattr(owner, step):
                step += "_"
            if step not in owner._modules:
                owner.add_module(step, nn.Module())
            owner = owner.get_submodule(step)
            path.append(step)
        free = next(n for n in chain([leaf], (f"{leaf}_{number}" for number in count(2))) if not hasattr(owner, n))
        setattr(owner, free, value)
        return ".".join([*path, free])

    def _pick(self, part: Part, positions: Ids, dim: int | None) -> fx.Node:
        """Emits some positions of a part: the part itself, a slice of it or a gather."""
        start = int(positions[0])
        length = len(positions)
        if not np.array_equal(positions, start + np.arange(length)):
            return self.gather(part.node, positions, dim, len(part.ids))
        if length == len(part.ids):
            return part.node  # type: ignore[no-any-return]
        return self._slice(part.node, start, length, dim)

    def _slice(self, node: fx.Node, start: int, length: int, dim: int | None) -> fx.Node:
        return self._call_once(("slice", node, dim, start, length), torch.narrow, (node, dim, start, length))

    def _select(self, node: fx.Node, positions: Ids, dim: int | None) -> fx.Node:
        key = ("select", node, dim, positions.tobytes())
        if key not in self._calls:
            index = self.constant(torch.from_numpy(positions.copy()))
            self._calls[key] = self.graph.call_function(torch.index_select, (node, dim, index))
        return self._calls[key]

    def _call_once(self, key: tuple[Any, ...], function: Any, args: tuple[Any, ...]) -> fx.Node:
        """Emits a call; the earlier one where the same was emitted before."""
        if key not in self._calls:
            self._calls[key] = self.graph.call_function(function, args)
        return self._calls[key]
