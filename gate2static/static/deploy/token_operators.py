"""Operators on tokens: what they do to channels, and whether they work as well where positions come last.

Values are (N, *positions, *channels). An operator can join a region of tokens (`token_regions`) if it is

1. a move along dimensions of channels: a pick, a slice, a concatenation or a reshape, with settings that are known,
2. a slice or a concatenation of positions, or
3. a pointwise operator whose operands have the channels of its result.

Requires: an annotated network (`aten.annotate`).
"""

from typing import Any

import torch
from torch import fx

from gate2static.static.aten import ANY_BATCH, dtype_of, shape_of
from gate2static.static.deploy.traffic_cost import RESHAPES

_aten = torch.ops.aten
PICKS = _aten.index_select.default
"""The operator that picks channels by an index."""
CUTS = {_aten.narrow.default, _aten.cat.default}
"""Operators that cut or join along any dimension but the batch."""
_MOVES = {PICKS, *CUTS, *RESHAPES}
"""Operators that move channels where they work along dimensions of channels."""


def operands(node: fx.Node) -> list[fx.Node]:
    """Returns what a node reads, without stored tensors."""
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def dims_of(node: fx.Node) -> list[int]:
    """Returns the dimensions along which a move works.

    Args:
        node: A slice, a gather, a concatenation or a reshape.

    Returns:
        The dimensions of the operand, none of them negative: two for a flattening, else one.
    """
    operand: Any = node.args[0]
    first = operand if isinstance(operand, fx.Node) else operand[0]
    ndim = len(shape_of(first) or ())
    # flatten(x, first, last); the dimension of all others is their first setting, 0 where it is absent.
    is_flatten = node.target is _aten.flatten.using_ints
    dims: Any = node.args[1:] if is_flatten else node.args[1:2]
    return [dim % ndim for dim in dims or (0,)]


def moves_channels(node: fx.Node, positions: int) -> bool:
    """Returns whether an operator that can join only moves channels; cutting positions counts as computing.

    Args:
        node: The operator.
        positions: The number of dimensions between the batch and the channels.
    """
    return node.target in _MOVES and dims_of(node)[0] > positions


def channel_sizes(node: fx.Node, positions: int) -> tuple[int, ...]:
    """Returns the sizes of a value's dimensions of channels.

    Args:
        node: The value's node.
        positions: The number of dimensions between the batch and the channels.
    """
    shape = shape_of(node) or ()
    return shape[positions + 1 :]


def can_join(node: fx.Node, positions: int) -> bool:
    """Returns whether an operator works as well where positions come last.

    Args:
        node: Any node of an annotated network.
        positions: The number of dimensions between the batch and the channels.
    """
    if node.op != "call_function" or not _has_channels(node, positions):
        return False
    # Cases 1 and 2.
    if node.target in _MOVES:
        return _has_known_settings(node) and _is_movable(node, positions)
    # Case 3.
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.pointwise not in node.target.tags:
        return False
    has_plain_options = all(isinstance(value, bool | int | float | str) for value in node.kwargs.values())
    return has_plain_options and all(_is_operand(source, node, positions) for source in node.all_input_nodes)


def _has_known_settings(node: fx.Node) -> bool:
    """Returns whether the settings of a move are numbers and stored indices, in their places.

    Args:
        node: A move, called by position or by name.
    """
    settings: list[Any] = []
    for argument in node.args[1:]:
        settings += argument if isinstance(argument, list) else [argument]
    for setting in settings:
        is_stored = isinstance(setting, fx.Node) and setting.op == "get_attr"
        if not is_stored and not isinstance(setting, int):
            return False
    has_fixed_dim = not any(isinstance(dim, fx.Node) for dim in node.args[1:2])
    return has_fixed_dim and not node.kwargs


def _is_movable(node: fx.Node, positions: int) -> bool:
    """Returns whether a move works along dimensions that it may work along.

    Slices and concatenations may cut positions, but not the batch; picks and reshapes stay among the channels.

    Args:
        node: A move with known settings.
        positions: The number of dimensions between the batch and the channels.
    """
    first = dims_of(node)[0]
    if node.target not in CUTS:
        return first > positions
    if node.target is _aten.cat.default:
        # Other dtypes would be converted, and values without dimensions left out.
        like = (len(shape_of(node) or ()), dtype_of(node))
        if any((len(shape_of(part) or ()), dtype_of(part)) != like for part in node.all_input_nodes):
            return False
    return first > 0


def _has_channels(node: fx.Node, positions: int) -> bool:
    """Returns whether a value has a batch, so many dimensions of positions, and channels; no dimension is empty."""
    shape = shape_of(node)
    if shape is None or len(shape) <= positions + 1:
        return False
    return shape[0] == ANY_BATCH and 0 not in shape


def _is_operand(source: fx.Node, node: fx.Node, positions: int) -> bool:
    """Returns whether a pointwise operator finds the channels of its result in an operand.

    Args:
        source: The operand: a value with the same channels, or a stored tensor that is broadcast.
        node: The operator.
        positions: The number of dimensions between the batch and the channels.
    """
    if source.op == "get_attr":
        return len(shape_of(source) or ()) <= len(shape_of(node) or ())
    has_same_channels = channel_sizes(source, positions) == channel_sizes(node, positions)
    return has_same_channels and _has_channels(source, positions)
