"""Recordings of one network at several batch and image sizes -> one graph for any of them.

What is equal in all recordings is a constant. A size that differs is read from a tensor that has it in every recording,
or computed from one or two such sizes. Anything else is refused: it depends on the size in another way.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from gate2static.static.aten import note
from gate2static.static.recording import Call, Recording, UnrecordedError

_aten = torch.ops.aten

Sizes = tuple[int, ...]
"""One size, as it is in each recording."""


def unify_sizes(
    recordings: Sequence[Recording], stored: Mapping[str, Tensor], names: Iterable[str]
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Writes several recordings as one graph.

    Args:
        recordings: The recordings, all at other sizes; nodes hold what their values look like in the first.
        stored: The network's parameters and buffers by name, which are the same at all sizes.
        names: The inputs' names.

    Returns:
        The graph: placeholders for parameters, buffers, constants and inputs, then the operators. Nodes of tensors have
        dimension -> a name for the size under `free_sizes`, which is equal for equal sizes, and the output node has the
        free dimensions of each output under `free_dims`. And name of a placeholder that is no input -> the tensor it
        stands for.

    Raises:
        UnrecordedError: The recordings differ in more than sizes that follow those of the inputs.
    """
    unifier = _Unifier(recordings)
    for name, tensor in stored.items():
        node = unifier.graph.placeholder(name)
        unifier.stored[node.name] = tensor
        unifier.track(node, [recording.stored[name] for recording in recordings], is_fixed=True)
    for name, *inputs in zip(names, *(recording.inputs for recording in recordings), strict=True):
        node = unifier.graph.placeholder(name)
        unifier.first_input = unifier.first_input or node
        unifier.track(node, inputs)
    calls = [[call for call in recording.calls if not isinstance(call.result, int)] for recording in recordings]
    if len({len(found) for found in calls}) > 1:
        raise UnrecordedError("the network runs other operators at another size")
    for one in zip(*calls, strict=True):
        unifier.add(one)
    outputs = [recording.outputs for recording in recordings]
    result = unifier.graph.output(unifier.same(outputs))
    result.meta["free_dims"] = [
        tuple(d for d in range(1, leaves[0].dim()) if len({leaf.shape[d] for leaf in leaves}) > 1)
        for leaves in zip(*outputs, strict=True)
    ]
    return unifier.graph, unifier.stored


class _Unifier:
    """The graph under construction.

    Attributes:
        recordings: The recordings.
        graph: The graph.
        nodes: Per recording, identity of a tensor -> its node.
        stored: Name of a placeholder that is no input -> its tensor.
        sources: A size -> the first tensor that has it, and its dimension.
        sizes: A size -> the node that reads or computes it.
        first_input: The placeholder before which constants stand.
    """

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = recordings
        self.graph = fx.Graph()
        self.nodes: list[dict[int, fx.Node]] = [{} for _ in recordings]
        self.stored: dict[str, Tensor] = {}
        self.sources: dict[Sizes, tuple[fx.Node, int]] = {}
        self.sizes: dict[Sizes, fx.Node] = {}
        self.first_input: fx.Node | None = None

    def add(self, calls: Sequence[Call]) -> None:
        """Writes an operator."""
        first = calls[0]
        if any(call.operator is not first.operator for call in calls):
            raise UnrecordedError("the network runs other operators at another size")
        args = self.same([call.args for call in calls])
        kwargs = self.same([call.kwargs for call in calls])
        node = self.graph.call_function(first.operator, args, kwargs)
        if isinstance(first.result, Tensor):
            self.track(node, [call.result for call in calls])
            return
        if len({len(call.result) for call in calls}) > 1:
            raise UnrecordedError(f"{first.operator} returns another number of tensors at another size")
        note(node, first.result)
        for index, parts in enumerate(zip(*(call.result for call in calls), strict=True)):
            if isinstance(parts[0], Tensor):
                self.track(self.graph.call_function(operator.getitem, (node, index)), parts)

    def track(self, node: fx.Node, tensors: Sequence[Tensor], *, is_fixed: bool = False) -> None:
        """Notes which node stands for a tensor, and the sizes that can be read from it."""
        if len({(tensor.dtype, tensor.dim()) for tensor in tensors}) > 1:
            raise UnrecordedError(f"{node} is another tensor at another size")
        if is_fixed and len({tensor.shape for tensor in tensors}) > 1:
            raise UnrecordedError("a stored tensor has another shape at another size")
        for nodes, tensor in zip(self.nodes, tensors, strict=True):
            nodes[id(tensor)] = node
        note(node, tensors[0])
        free: dict[int, str] = {}
        for dim, sizes in enumerate(zip(*(tensor.shape for tensor in tensors), strict=True)):
            if len(set(sizes)) > 1:
                source, of_source = self.sources.setdefault(sizes, (node, dim))
                free[dim] = f"{source.name}_{of_source}"
        node.meta["free_sizes"] = free

    def same(self, values: Sequence[Any]) -> Any:
        """Writes what all recordings have at one place."""
        first = values[0]
        if isinstance(first, Tensor):
            return self.tensor(values)
        if any(type(value) is not type(first) for value in values):
            raise UnrecordedError(f"an argument is {first} at one size and {values[1]} at another")
        if isinstance(first, list | tuple):
            if len({len(value) for value in values}) > 1:
                raise UnrecordedError("a list of arguments has another length at another size")
            return type(first)([self.same(parts) for parts in zip(*values, strict=True)])
        if isinstance(first, dict):
            return {key: self.same([value[key] for value in values]) for key in first}
        if all(value == first for value in values):
            return first
        if type(first) is int:
            return self.size(tuple(values))
        raise UnrecordedError(f"an argument is {first} at one size and {values[1]} at another")

    def size(self, sizes: Sizes) -> fx.Node:
        """Returns the node that computes a size which differs between the recordings."""
        if sizes not in self.sizes:
            computed = self.read(sizes) or self.from_one(sizes) or self.from_two(sizes)
            if computed is None:
                raise UnrecordedError(f"a size is {sizes[0]} at one size of the inputs and {sizes[1]} at another")
            self.sizes[sizes] = computed
        return self.sizes[sizes]

    def read(self, sizes: Sizes) -> fx.Node | None:
        """Reads a size from a tensor that has it."""
        if sizes in self.sizes:
            return self.sizes[sizes]
        if sizes not in self.sources:
            return None
        self.sizes[sizes] = self.graph.call_function(_aten.sym_size.int, self.sources[sizes])
        return self.sizes[sizes]

    def from_one(self, sizes: Sizes) -> fx.Node | None:
        """Computes a size as k times, the k-th of, or k more than, one that a tensor has."""
        for source in self.known():
            for function, k in _steps(source, sizes):
                node = self.read(source)
                return node if node is None else self.graph.call_function(function, (node, k))
        return None

    def from_two(self, sizes: Sizes) -> fx.Node | None:
        """Computes a size as the product of two, such as the positions of an image; or of three, with the batch."""
        for source in self.known():
            if any(size % one for size, one in zip(sizes, source, strict=True)):
                continue
            rest = tuple(size // one for size, one in zip(sizes, source, strict=True))
            if len(set(rest)) == 1:
                continue
            other = self.read(rest) or self.from_one(rest)
            if other is None and source == tuple(recording.batch for recording in self.recordings):
                other = self.from_two(rest)
            node = self.read(source)
            if other is not None and node is not None:
                return self.graph.call_function(operator.mul, (node, other))
        return None

    def known(self) -> Iterator[Sizes]:
        """Yields sizes that tensors have, those of the inputs first."""
        yield from list(self.sources)

    def tensor(self, tensors: Sequence[Tensor]) -> fx.Node:
        """Returns the node that computes a tensor; a placeholder where it is a constant."""
        candidates = [nodes.get(id(tensor)) for nodes, tensor in zip(self.nodes, tensors, strict=True)]
        first = tensors[0]
        is_new = all(node is None for node in candidates) and not first.is_meta
        if is_new and all(x.dtype is first.dtype and torch.equal(x, first) for x in tensors):
            with self.graph.inserting_before(self.first_input):
                node = self.graph.placeholder(f"constant_{len(self.stored)}")
            self.stored[node.name] = first
            self.track(node, tensors)
            return node
        if candidates[0] is None or any(node is not candidates[0] for node in candidates):
            raise UnrecordedError("the network reads a tensor of numbers that are others at another size")
        return candidates[0]


def _steps(source: Sizes, sizes: Sizes) -> Iterator[tuple[Any, int]]:
    """Yields the one step of arithmetic, if there is one, that makes a size of another one in all recordings."""
    pairs = list(zip(source, sizes, strict=True))
    one, size = max(pairs)
    if one and size % one == 0 and all(a * (size // one) == b for a, b in pairs):
        yield operator.mul, size // one
    for k in {one // size, one // (size + 1) + 1} if size else ():
        if k > 1 and all(a // k == b for a, b in pairs):
            yield operator.floordiv, k
    if all(b - a == size - one for a, b in pairs):
        yield operator.add, size - one

