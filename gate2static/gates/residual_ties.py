"""Which units write to the same residual stream.

Where the channels of two units are added, the sum is shared between tasks only where both are. So gates that decide
alike along a residual stream leave fewer distinct sums, and with them fewer copies of everything that reads the stream.
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.graphs import function_of
from gate2static.program.annotate import info
from gate2static.program.operators import is_norm
from gate2static.program.program import Program
from gate2static.program.units import gated_unit

_ADDITIONS = (operator.add, torch.add, "add", operator.sub, torch.sub, "sub")
# fmt: off
_MOVEMENTS = (
    "flatten", "unflatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze",
    "contiguous", "clone", "getitem", "narrow", "select", "roll", "flip", "cat",
)
# fmt: on


@dataclass(frozen=True)
class _Written:
    """A value that holds the channels of units in their order.

    Attributes:
        units: whose channels; several where they are added, or lie side by side along another dimension.
        dim: where the channels are, counted from the end.
        channels: C.
    """

    units: frozenset[str]
    dim: int
    channels: int


def residual_ties(root: nn.Module, program: Program) -> tuple[tuple[str, ...], ...]:
    """Groups of units whose channels are added to each other, channel for channel.

    A unit's channels reach an addition through other additions and through whatever keeps channels apart: norms,
    activations, pooling, resizing, dropout, scales, moves of other dimensions, concatenation along them. Products of
    two units' features, as in squeeze-and-excitation, tie nothing; the scaled one goes on. Weight layers, products of
    matrices and concatenation of channels end it.

    Args:
        root: owner of the modules that the program's backbone calls.
        program: of the network.

    Returns:
        The groups of two or more units, each in data-flow order.
    """
    written: dict[fx.Node, _Written] = {}
    groups = {unit.name: frozenset({unit.name}) for unit in program.units}
    units = {unit.name: unit for unit in program.units}
    for node in program.backbone():
        if node.target is gated_unit:
            unit = units[str(node.args[1])]
            dim = unit.dim - len(info(node).shape or ())
            written[node] = _Written(frozenset({unit.name}), dim, unit.channels)
        elif (found := _carried(root, node, written)) is not None:
            written[node] = found
            if node.target in _ADDITIONS and len([n for n in node.all_input_nodes if n in written]) > 1:
                joined = frozenset[str]().union(*(groups[name] for name in found.units))
                groups |= dict.fromkeys(joined, joined)
    distinct = {group for group in groups.values() if len(group) > 1}
    ordered = [tuple(name for name in units if name in group) for group in distinct]
    return tuple(sorted(ordered, key=lambda group: list(units).index(group[0])))


def _carried(root: nn.Module, node: fx.Node, written: dict[fx.Node, _Written]) -> _Written | None:
    """What a node that is no gate still holds of the channels that it reads."""
    sources = {n: written[n] for n in node.all_input_nodes if n in written}
    shape = info(node).shape
    if not sources or shape is None or info(node).macs or not _keeps_channels(root, node):
        return None
    alike = len({(s.dim, s.channels) for s in sources.values()}) == 1
    if _is_movement(root, node):
        return _moved(root, node, sources) if alike else None
    if node.target not in _ADDITIONS and len(sources) > 1:
        sources = {n: s for n, s in sources.items() if info(n).shape == shape}
        alike = len(sources) == 1
    if not alike:
        return None
    one = next(iter(sources.values()))
    ranks = {len(info(n).shape or ()) for n in sources}
    if len(shape) not in ranks or shape[one.dim] != one.channels:
        return None
    return _Written(frozenset[str]().union(*(s.units for s in sources.values())), one.dim, one.channels)


def _keeps_channels(root: nn.Module, node: fx.Node) -> bool:
    if node.op != "call_module":
        return True
    module = root.get_submodule(str(node.target))
    return is_norm(module) or isinstance(module, nn.PReLU) or not any(True for _ in module.parameters())


def _is_movement(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), nn.Flatten | nn.Unflatten)
    return str(getattr(node.target, "__name__", node.target)) in _MOVEMENTS


def _moved(root: nn.Module, node: fx.Node, sources: dict[fx.Node, _Written]) -> _Written | None:
    """Where the channels are after a movement: it runs on tensors that hold each element's channel."""
    one = next(iter(sources.values()))
    joins = node.target is torch.cat

    def argument(n: fx.Node) -> Any:
        shape = info(n).shape
        if shape is None:
            return info(n).values[0]
        # What else is concatenated, such as class tokens, has its channels at the same place.
        fits = n in sources or (joins and len(shape) >= -one.dim and shape[one.dim] == one.channels)
        return _numbered(shape, one.dim) if fits else torch.full(shape, -1, dtype=torch.int32)

    args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
    if not joins and len([n for n in node.all_input_nodes if info(n).shape is not None]) > 1:
        return None  # an index that the data decides
    if node.op == "call_module":
        found = root.get_submodule(str(node.target))(*args, **kwargs)
    elif node.op == "call_method":
        found = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    else:
        found = function_of(node)(*args, **kwargs)
    places = [d for d in range(-found.dim(), 0) if found.shape[d] == one.channels]
    places = [d for d in places if torch.equal(found, _numbered(tuple(found.shape), d))]
    if len(places) != 1:
        return None
    return _Written(frozenset[str]().union(*(s.units for s in sources.values())), places[0], one.channels)


def _numbered(shape: tuple[int, ...], dim: int) -> Tensor:
    """A tensor that holds the position of each element along a dimension."""
    sizes = [1] * len(shape)
    sizes[dim] = shape[dim]
    return torch.arange(shape[dim], dtype=torch.int32).view(sizes).expand(shape).contiguous()
