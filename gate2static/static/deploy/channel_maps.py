"""Values of a captured network whose channels are linear maps of other values' channels.

    value[c] = Σ_s Σ_k A_s[c, k] · s[k]        at every position, for sources s and sparse matrices A_s (C × C_s)

Gates leave maps in a static network: what a stream reads (eq. 2) has one 1 per row, and the mix (eq. 3) has the softmax
of β. Whatever operators wrote a value, one matrix per source says what it is:

1. Picking channels picks rows of A_s.
2. A slice of channels is a slice of the rows.
3. A concatenation stacks the matrices of its parts.
4. A scale per channel multiplies the rows.
5. An addition adds the matrices, source by source.

Requires: an annotated network (`aten.annotate`) with its constants folded. Ensures: the network is not changed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from scipy.sparse import csr_array, diags_array, eye_array, vstack
from torch import fx

from gate2static.static.aten import ANY_BATCH, dtype_of, shape_of
from gate2static.static.capturing.capture import constant

ChannelMap = Mapping[fx.Node, csr_array]
"""Source -> A_s."""

_aten = torch.ops.aten
_CHANNELS = 1
"""The dimension of the channels, in values (N, C, *positions)."""
_NDIMS = (3, 4, 5)
"""Dimensions of sequences, images and volumes, batch and channels included."""
_OPERATORS = (
    _aten.index_select.default,
    _aten.narrow.default,
    _aten.cat.default,
    _aten.mul.Tensor,
    _aten.add.Tensor,
)
"""The operators of cases 1 to 5."""


def channel_maps(network: fx.GraphModule) -> dict[fx.Node, ChannelMap]:
    """Finds the map of every value (N, C, *positions) that is one.

    An addition or a concatenation of whole values is a source of the maps behind it if operators other than maps read
    it: it is computed anyway, and is not computed again. So sources need not be the start of a residual stream.

    Args:
        network: Annotated, with its constants folded.
    """
    maps: dict[fx.Node, ChannelMap] = {}
    for node in network.graph.nodes:
        channel_map = _map_of(node, network, maps)
        if channel_map is not None:
            maps[node] = channel_map
    return maps


def is_concatenation(node: fx.Node, maps: Mapping[fx.Node, ChannelMap]) -> bool:
    """Returns whether a map puts whole values side by side, each of them once.

    Args:
        node: A node that has a map.
        maps: The maps of the nodes up to this one.
    """
    if node.target is not _aten.cat.default:
        return False
    return Counter(_parts(node, maps)) == Counter(maps[node].keys())


def _parts(concatenation: fx.Node, maps: Mapping[fx.Node, ChannelMap]) -> Iterator[fx.Node]:
    """Yields the values that a concatenation puts side by side, those of nested concatenations one by one.

    Args:
        concatenation: A concatenation that has a map.
        maps: The maps of the nodes up to this one.
    """
    parts: Any = concatenation.args[0]
    for part in parts:
        is_nested = part in maps and part.target is _aten.cat.default and not _is_source(part, maps)
        if is_nested:
            yield from _parts(part, maps)
        else:
            yield part


def _is_source(node: fx.Node, maps: Mapping[fx.Node, ChannelMap]) -> bool:
    """Returns whether the maps behind a value read it as it is.

    Args:
        node: The value's node.
        maps: The maps of the nodes up to this one.
    """
    if node not in maps:
        return True
    # Computed anyway, since others than maps read it.
    is_whole = node.target is _aten.add.Tensor or is_concatenation(node, maps)
    return is_whole and any(user.target not in _OPERATORS for user in node.users)


def _map_of(node: fx.Node, network: fx.GraphModule, maps: Mapping[fx.Node, ChannelMap]) -> ChannelMap | None:
    """Returns the map of a value, by its operator; None if the value is no map.

    Args:
        node: The value's node.
        network: The network, for its stored tensors.
        maps: The maps of the nodes before.
    """
    if node.target not in _OPERATORS or node.kwargs or not _is_image(node):
        return None
    shape = shape_of(node) or ()
    args: Any = node.args
    match node.target, args:
        # Case 1: index_select(source, dim, index)
        case _aten.index_select.default, (fx.Node() as source, 1, fx.Node() as index) if index.op == "get_attr":
            rows = constant(network, index).cpu().numpy()
            return {s: matrix[rows] for s, matrix in _map_of_operand(source, maps).items()}
        # Case 2: narrow(source, dim, start, length)
        case _aten.narrow.default, (fx.Node() as source, 1, int() as start, int() as length) if start >= 0:
            return {s: matrix[start : start + length] for s, matrix in _map_of_operand(source, maps).items()}
        # Case 3: cat(sources, dim)
        case _aten.cat.default, (sources, 1) if all(_is_image(source) for source in sources):
            return _stack([_map_of_operand(source, maps) for source in sources])
        # Case 4: mul(source, scale)
        case _aten.mul.Tensor, (fx.Node() as source, fx.Node() as scale):
            if shape_of(source) != shape or not _is_scale(scale, shape):
                return None
            scales = diags_array(constant(network, scale).double().flatten().cpu().numpy())
            return {s: (scales @ matrix).tocsr() for s, matrix in _map_of_operand(source, maps).items()}
        # Case 5: add(a, b)
        case _aten.add.Tensor, (fx.Node() as a, fx.Node() as b) if shape_of(a) == shape_of(b):
            return _add(_map_of_operand(a, maps), _map_of_operand(b, maps))
    return None


def _map_of_operand(node: fx.Node, maps: Mapping[fx.Node, ChannelMap]) -> ChannelMap:
    """Returns the map of an operand of a map; a source is the identity of itself.

    Args:
        node: The operand, of shape (N, C, *positions).
        maps: The maps of the nodes before.
    """
    if not _is_source(node, maps):
        return maps[node]
    shape = shape_of(node)
    assert shape is not None
    return {node: eye_array(shape[_CHANNELS]).tocsr()}


def _stack(parts: list[ChannelMap]) -> ChannelMap:
    """Puts the rows of maps one behind the other; a part has rows of zeros for the sources that it does not read.

    Args:
        parts: The maps, in their order.
    """
    heights = []
    widths: dict[fx.Node, int] = {}
    for part in parts:
        heights.append(next(iter(part.values())).shape[0])
        widths |= {source: matrix.shape[1] for source, matrix in part.items()}
    stacked = {}
    for source, width in widths.items():
        matrices = [
            part.get(source, csr_array((height, width)))
            for part, height in zip(parts, heights, strict=True)
        ]
        stacked[source] = vstack(matrices).tocsr()
    return stacked


def _add(a: ChannelMap, b: ChannelMap) -> ChannelMap:
    """Adds two maps, source by source."""
    total = dict(a)
    for source, matrix in b.items():
        total[source] = total[source] + matrix if source in total else matrix
    return total


def _is_image(node: fx.Node) -> bool:
    """Returns whether a value has a batch, channels and positions, and holds real numbers."""
    shape = shape_of(node)
    if shape is None or len(shape) not in _NDIMS:
        return False
    return shape[0] == ANY_BATCH and shape[_CHANNELS] > 0 and dtype_of(node).is_floating_point


def _is_scale(node: fx.Node, shape: tuple[int, ...]) -> bool:
    """Returns whether a node is a stored tensor with one number per channel.

    Args:
        node: The node.
        shape: The shape (N, C, *positions) of the value that it scales.
    """
    positions = [1] * (len(shape) - _CHANNELS - 1)
    per_channel = (shape[_CHANNELS], *positions)
    return node.op == "get_attr" and shape_of(node) in (per_channel, (1, *per_channel))
