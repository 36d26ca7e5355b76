"""Finds the units that write to the same residual stream.

Where the channels of two units are added, the sum is shared between tasks only where both units are. So gates that
decide alike along a residual stream leave fewer distinct sums, and with them fewer copies of everything that reads the
stream.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.graphs import function_of
from gate2static.program.annotate import info
from gate2static.program.operators import ADDITIONS, MOVE_LAYERS, MOVES, SUBTRACTIONS, function_name, is_norm
from gate2static.program.program import Program
from gate2static.program.units import gated_unit

_SUMS = (*ADDITIONS, *SUBTRACTIONS)

_NOT_FOLLOWED = frozenset({
    "view_as", "reshape_as", "ravel", "t", "rot90", "expand", "expand_as", "broadcast_to", "repeat",
    "repeat_interleave", "tile", "diagonal", "__getitem__",
})  # fmt: skip
"""Moves that are looked at like any other operator: channels pass only if they stay where they are.

To follow them would tie more units than older versions did, and a checkpoint has one α for each unit.
"""

_FOLLOWED_MOVES = (MOVES - _NOT_FOLLOWED) | {"contiguous", "clone", "cat"}
"""Operators that are asked where they move channels, see `_moved`."""


@dataclass(frozen=True)
class _Carried:
    """The channels of units that a value holds in their order.

    Attributes:
        units: The units whose channels they are. There are several where channels are added, or lie side by side along
            another dimension.
        dim: The dimension along which the channels lie, counted from the end.
        channels: C, the number of channels.
    """

    units: frozenset[str]
    dim: int
    channels: int


def residual_ties(root: nn.Module, program: Program) -> tuple[tuple[str, ...], ...]:
    """Returns groups of units whose channels are added to each other, channel for channel.

    A unit's channels reach an addition through other additions and through whatever keeps channels apart: norms,
    activations, pooling, resizing, dropout, scales, moves of other dimensions, and concatenation along them. Weight
    layers, products of matrices, and concatenation of channels end it. A product of two units' features, as in
    squeeze-and-excitation, ties nothing: the features that are scaled go on, and the scale does not.

    Args:
        root: The owner of the modules that the program's backbone calls.
        program: The program of the network.

    Returns:
        The groups of two or more units, each in data-flow order.
    """
    units = {unit.name: unit for unit in program.units}
    group_of = {name: frozenset({name}) for name in units}
    carried: dict[fx.Node, _Carried] = {}
    for node in program.backbone():
        if node.target is gated_unit:
            unit = units[str(node.args[1])]
            dim = unit.dim - len(info(node).shape or ())
            carried[node] = _Carried(frozenset({unit.name}), dim, unit.channels)
            continue
        value = _carried_by(root, node, carried)
        if value is None:
            continue
        carried[node] = value
        addends = [n for n in node.all_input_nodes if n in carried]
        if node.target in _SUMS and len(addends) > 1:
            # All units of both sides, and all that these are tied to already.
            joined = frozenset[str]().union(*(group_of[name] for name in value.units))
            group_of |= dict.fromkeys(joined, joined)
    groups = {group for group in group_of.values() if len(group) > 1}
    ordered = [tuple(filter(group.__contains__, units)) for group in groups]
    position = {name: i for i, name in enumerate(units)}
    return tuple(sorted(ordered, key=lambda group: position[group[0]]))


def _carried_by(root: nn.Module, node: fx.Node, carried: Mapping[fx.Node, _Carried]) -> _Carried | None:
    """Returns the channels that a node still holds of those that it reads, or None where it ends them.

    Args:
        root: The owner of the modules that the graph calls.
        node: A node that is no gate.
        carried: Node -> the channels that it holds, for all nodes before this one.
    """
    sources = {n: carried[n] for n in node.all_input_nodes if n in carried}
    shape = info(node).shape
    if not sources or shape is None or info(node).macs or not _keeps_channels(root, node):
        return None
    if _is_move(root, node):
        return _moved(root, node, sources) if _are_alike(sources.values()) else None
    if node.target not in _SUMS and len(sources) > 1:
        # Of a product, the operand with the shape of the result goes on; the other one is its scale.
        sources = {n: source for n, source in sources.items() if info(n).shape == shape}
        if len(sources) != 1:
            return None
    if not _are_alike(sources.values()):
        return None
    source = next(iter(sources.values()))
    # An operand with fewer dimensions is broadcast, so another one must have those of the result.
    ranks = {len(info(n).shape or ()) for n in sources}
    if len(shape) not in ranks or shape[source.dim] != source.channels:
        return None
    return _Carried(_units_of(sources.values()), source.dim, source.channels)


def _are_alike(sources: Iterable[_Carried]) -> bool:
    """Returns whether all sources have as many channels at the same place.

    The place is counted from the end, so that it is the same for operands that are broadcast.
    """
    return len({(source.dim, source.channels) for source in sources}) == 1


def _units_of(sources: Iterable[_Carried]) -> frozenset[str]:
    """Returns the units of all sources together."""
    return frozenset[str]().union(*(source.units for source in sources))


def _keeps_channels(root: nn.Module, node: fx.Node) -> bool:
    """Returns whether a node is no weight layer.

    Operators, norms, PReLU and modules without parameters keep the channels of their input apart.
    """
    if node.op != "call_module":
        return True
    module = root.get_submodule(str(node.target))
    return is_norm(module) or isinstance(module, nn.PReLU) or next(module.parameters(), None) is None


def _is_move(root: nn.Module, node: fx.Node) -> bool:
    """Returns whether a node moves data and is followed, see `_FOLLOWED_MOVES`."""
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), MOVE_LAYERS)
    return function_name(node) in _FOLLOWED_MOVES


def _moved(root: nn.Module, node: fx.Node, sources: Mapping[fx.Node, _Carried]) -> _Carried | None:
    """Returns the channels after a move, or None where they do not stay in order along one dimension.

    The operator itself is asked: it runs on tensors that hold the number of each element's channel.

    Args:
        root: The owner of the modules that the graph calls.
        node: A node that moves data.
        sources: Input -> the channels that it holds; all have as many channels at the same place.
    """
    source = next(iter(sources.values()))
    joins = node.target is torch.cat
    tensors = [n for n in node.all_input_nodes if info(n).shape is not None]
    if len(tensors) > 1 and not joins:
        return None  # the data decide, as an index does

    # The number of each element's channel, and -1 for what is joined with the channels along another dimension.
    def numbered(n: fx.Node) -> Any:
        shape = info(n).shape
        if shape is None:
            return info(n).values[0]
        # What else is concatenated, such as class tokens, has its channels at the same place.
        fits = joins and len(shape) >= -source.dim and shape[source.dim] == source.channels
        if n in sources or fits:
            return _numbered(shape, source.dim)
        return torch.full(shape, -1, dtype=torch.int32)

    args, kwargs = fx.map_arg((node.args, node.kwargs), numbered)
    if node.op == "call_module":
        result = root.get_submodule(str(node.target))(*args, **kwargs)
    elif node.op == "call_method":
        result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    else:
        result = function_of(node)(*args, **kwargs)
    shape = tuple(result.shape)
    sized = [dim for dim in range(-len(shape), 0) if shape[dim] == source.channels]
    dims = [dim for dim in sized if torch.equal(result, _numbered(shape, dim))]
    return _Carried(_units_of(sources.values()), dims[0], source.channels) if len(dims) == 1 else None


def _numbered(shape: tuple[int, ...], dim: int) -> Tensor:
    """Returns a tensor that holds the position of each element along a dimension."""
    sizes = [1] * len(shape)
    sizes[dim] = shape[dim]
    return torch.arange(shape[dim], dtype=torch.int32).view(sizes).expand(shape).contiguous()
