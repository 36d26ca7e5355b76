"""Two recordings of one network, at two batch sizes -> one graph for any batch.

What is equal in both is a constant. A size that is k times the batch in both is written as k times the batch of an
input. Anything else is refused.
"""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from gate2static.static.aten import note
from gate2static.static.recording import Call, Recording, UnrecordedError

_aten = torch.ops.aten
_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg)


def unify(
    small: Recording, large: Recording, stored: Mapping[str, Tensor], names: Iterable[str]
) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Writes two recordings as one graph.

    Args:
        small: The recording at one batch size.
        large: The recording at another one.
        stored: The network's parameters and buffers by name.
        names: The inputs' names.

    Returns:
        The graph: placeholders for parameters, buffers, constants and inputs, then the operators, whose nodes hold what
        their values look like in `large`. And name of a placeholder that is no input -> the tensor it stands for.

    Raises:
        UnrecordedError: The recordings differ in more than sizes that are multiples of the batch.
    """
    unifier = _Unifier(small, large)
    unifier.add_stored(stored)
    unifier.add_inputs(names)
    if len(small.calls) != len(large.calls):
        raise UnrecordedError("the network runs other operators at another batch size")
    for one, other in zip(small.calls, large.calls, strict=True):
        unifier.add(one, other)
    unifier.graph.output(unifier.both(small.outputs, large.outputs))
    return unifier.graph, unifier.stored


class _Unifier:
    """The graph under construction.

    Attributes:
        graph: The graph.
        nodes: Identity of a tensor of the small and of the large recording -> its node.
        stored: Name of a placeholder that is no input -> its tensor.
        sizes: k -> the node that computes k times the batch.
        of_tensors: The k of sizes that tensors have and no node computes.
        first_input: The placeholder before which constants stand.
    """

    def __init__(self, small: Recording, large: Recording) -> None:
        self.small, self.large = small, large
        self.graph = fx.Graph()
        self.nodes: tuple[dict[int, fx.Node], dict[int, fx.Node]] = ({}, {})
        self.stored: dict[str, Tensor] = {}
        self.sizes: dict[int, fx.Node] = {}
        self.of_tensors: set[int] = set()
        self.first_input: fx.Node | None = None

    def add_stored(self, stored: Mapping[str, Tensor]) -> None:
        """Writes placeholders for parameters and buffers."""
        for name, tensor in stored.items():
            node = self.graph.placeholder(name)
            self.stored[node.name] = tensor
            self.track(node, self.small.stored[name], self.large.stored[name])

    def add_inputs(self, names: Iterable[str]) -> None:
        """Writes placeholders for the inputs, and the batch."""
        for name, one, other in zip(names, self.small.inputs, self.large.inputs, strict=True):
            node = self.graph.placeholder(name)
            self.first_input = self.first_input or node
            self.track(node, one, other)
        batched = next(x for x in self.small.inputs if x.dim())
        self.sizes[1] = self.graph.call_function(_aten.sym_size.int, (self.nodes[0][id(batched)], 0))

    def add(self, one: Call, other: Call) -> None:
        """Writes an operator."""
        if one.operator is not other.operator:
            raise UnrecordedError("the network runs other operators at another batch size")
        if isinstance(one.result, int):
            self.add_size(one, other)
            return
        args, kwargs = self.both(one.args, other.args), self.both(one.kwargs, other.kwargs)
        node = self.graph.create_node("call_function", one.operator, args, kwargs, name=_name_of(one.operator))
        if isinstance(one.result, Tensor):
            self.track(node, one.result, other.result)
            return
        note(node, other.result)
        for index, (a, b) in enumerate(zip(one.result, other.result, strict=True)):
            if isinstance(a, Tensor):
                self.track(self.graph.call_function(operator.getitem, (node, index)), a, b)

    def add_size(self, one: Call, other: Call) -> None:
        """Writes arithmetic on sizes where its result follows the batch and is new."""
        multiple = self.multiple(one.result, other.result)
        if multiple is None or multiple in self.sizes or multiple in self.of_tensors or one.operator not in _ARITHMETIC:
            return
        self.sizes[multiple] = self.graph.call_function(one.operator, self.both(one.args, other.args))

    def track(self, node: fx.Node, one: Tensor, other: Tensor) -> None:
        """Notes which node stands for a tensor, and the sizes it has."""
        if one.dtype is not other.dtype or one.dim() != other.dim():
            raise UnrecordedError(f"{node} is another tensor at another batch size")
        self.nodes[0][id(one)] = node
        self.nodes[1][id(other)] = node
        note(node, other)
        for a, b in zip(_sizes(one), _sizes(other), strict=True):
            multiple = self.multiple(a, b)
            if multiple is not None and multiple not in self.sizes:
                self.of_tensors.add(multiple)

    def multiple(self, one: int, other: int) -> int | None:
        """K where a size is k times the batch in both recordings; None where it is not."""
        k, rest = divmod(one, self.small.batch)
        return k if k and not rest and other == k * self.large.batch else None

    def both(self, one: Any, other: Any) -> Any:
        """Writes what both recordings have at one place."""
        if isinstance(one, Tensor):
            return self.tensor(one, other)
        if isinstance(one, list | tuple):
            return type(one)([self.both(a, b) for a, b in zip(one, other, strict=True)])
        if isinstance(one, dict):
            return {key: self.both(value, other[key]) for key, value in one.items()}
        if type(one) is int and one != other:
            return self.size(one, other)
        if type(one) is not type(other) or one != other:
            raise UnrecordedError(f"an argument is {one} at one batch size and {other} at another")
        return one

    def size(self, one: int, other: int) -> fx.Node:
        """The node that computes a size which follows the batch."""
        multiple = self.multiple(one, other)
        if multiple is None:
            raise UnrecordedError(f"a size is {one} at one batch size and {other} at another")
        if multiple not in self.sizes:
            batch = self.sizes[1]
            args = (multiple, batch) if multiple in self.of_tensors else (batch, multiple)
            self.sizes[multiple] = self.graph.call_function(operator.mul, args)
        return self.sizes[multiple]

    def tensor(self, one: Tensor, other: Tensor) -> fx.Node:
        """The node that computes a tensor; a placeholder where it is a constant."""
        node, same = self.nodes[0].get(id(one)), self.nodes[1].get(id(other))
        if node is None and same is None and not one.is_meta and one.dtype is other.dtype and torch.equal(one, other):
            with self.graph.inserting_before(self.first_input):
                node = same = self.graph.placeholder("constant")
            self.stored[node.name] = one
            self.track(node, one, other)
        if node is None or node is not same:
            raise UnrecordedError("the network reads another tensor at another batch size")
        return node


def _name_of(operator: Any) -> str:
    """Returns an operator's name without that of its overload, as torch.export names nodes."""
    return str(operator.overloadpacket.__name__)


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """All sizes of a tensor that code can ask for."""
    if tensor.layout is not torch.strided:
        return tuple(tensor.shape)
    return (*tensor.shape, *tensor.stride(), tensor.numel(), tensor.storage_offset())
