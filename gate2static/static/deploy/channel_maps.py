"""Values of a captured network that are channels of other values: picked, put together, scaled and added.

    value[c] = Σ_s Σ_k A_s[c, k] · s[k]        at every position, for sources s and sparse matrices A_s (C × C_s)

What a gate leaves in a static network is of this kind: what a stream reads (eq. 2) has one 1 a row, the mix (eq. 3) the
softmax of β. However it was put together, one matrix a source says what it is.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from scipy.sparse import csr_array, diags_array, eye_array, vstack
from torch import fx

from gate2static.static.aten import ANY_BATCH, dtype_of, shape_of
from gate2static.static.capture import constant

ChannelMap = Mapping[fx.Node, csr_array]
"""Source -> A_s."""

_aten = torch.ops.aten
_CHANNELS = 1
_DIMS = (3, 4, 5)
_TARGETS = (
    _aten.index_select.default, _aten.narrow.default, _aten.cat.default, _aten.mul.Tensor, _aten.add.Tensor,
)  # fmt: skip


def channel_maps(network: fx.GraphModule) -> dict[fx.Node, ChannelMap]:
    """The map of every value that is one, along the channels of (N, C, …) values with positions behind them.

    Additions and concatenations of whole values that others than maps read are sources of the maps behind them: what
    is computed anyway is not computed again. So no source need be the first of a residual stream.

    Args:
        network: Annotated, its constants folded.
    """
    found: dict[fx.Node, ChannelMap] = {}
    for node in network.graph.nodes:
        made = _map_of(node, network, found)
        if made is not None:
            found[node] = made
    return found


def is_concatenation(node: fx.Node, maps: Mapping[fx.Node, ChannelMap]) -> bool:
    """Whether a map puts whole values side by side, each once."""
    return node.target is _aten.cat.default and Counter(_leaves(node, maps)) == Counter(maps[node].keys())


def _leaves(node: fx.Node, maps: Mapping[fx.Node, ChannelMap]) -> Iterator[fx.Node]:
    parts: Any = node.args[0]
    for part in parts:
        if part in maps and part.target is _aten.cat.default and not _is_source(part, maps):
            yield from _leaves(part, maps)
        else:
            yield part


def _is_source(node: fx.Node, found: Mapping[fx.Node, ChannelMap]) -> bool:
    """Whether maps behind a value read it as it is."""
    if node not in found:
        return True
    whole = node.target is _aten.add.Tensor or is_concatenation(node, found)
    return whole and any(user.target not in _TARGETS for user in node.users)


def _map_of(node: fx.Node, network: fx.GraphModule, found: Mapping[fx.Node, ChannelMap]) -> ChannelMap | None:
    shape = shape_of(node)
    if node.target not in _TARGETS or node.kwargs or shape is None or not _is_image(node):
        return None
    match node.target, node.args:
        case _aten.index_select.default, (fx.Node() as source, 1, fx.Node() as index) if index.op == "get_attr":
            rows = constant(network, index).cpu().numpy()
            return {s: matrix[rows] for s, matrix in _inputs(source, found).items()}
        case _aten.narrow.default, (fx.Node() as source, 1, int() as start, int() as length) if start >= 0:
            return {s: matrix[start : start + length] for s, matrix in _inputs(source, found).items()}
        case _aten.cat.default, (sources, 1) if all(_is_image(source) for source in sources):  # type: ignore[union-attr, arg-type]
            return _stacked([_inputs(source, found) for source in sources])  # type: ignore[arg-type, union-attr]
        case _aten.mul.Tensor, (fx.Node() as source, fx.Node() as scale) if shape_of(source) == shape and _is_scale(
            scale, shape
        ):
            scales = diags_array(constant(network, scale).double().flatten().cpu().numpy())
            return {s: (scales @ matrix).tocsr() for s, matrix in _inputs(source, found).items()}
        case _aten.add.Tensor, (fx.Node() as a, fx.Node() as b) if shape_of(a) == shape_of(b):
            total = dict(_inputs(a, found))
            for source, matrix in _inputs(b, found).items():
                total[source] = total[source] + matrix if source in total else matrix
            return total
    return None


def _is_image(node: fx.Node) -> bool:
    """Whether a value has a batch, channels and positions of real numbers."""
    shape = shape_of(node)
    return (
        shape is not None
        and len(shape) in _DIMS
        and shape[0] == ANY_BATCH
        and shape[_CHANNELS] > 0
        and dtype_of(node).is_floating_point
    )


def _inputs(node: fx.Node, found: Mapping[fx.Node, ChannelMap]) -> ChannelMap:
    """The map of an operand; a source is itself."""
    if not _is_source(node, found):
        return found[node]
    shape = shape_of(node)
    assert shape is not None
    return {node: eye_array(shape[_CHANNELS]).tocsr()}


def _stacked(parts: list[ChannelMap]) -> ChannelMap:
    """One map behind the other."""
    rows = [next(iter(part.values())).shape[0] for part in parts]
    widths = {source: matrix.shape[1] for part in parts for source, matrix in part.items()}
    return {
        source: vstack([part.get(source, csr_array((r, width))) for part, r in zip(parts, rows, strict=True)]).tocsr()
        for source, width in widths.items()
    }


def _is_scale(node: fx.Node, shape: tuple[int, ...]) -> bool:
    """Whether a constant has one number a channel."""
    one_each = (shape[_CHANNELS], *[1] * (len(shape) - _CHANNELS - 1))
    return node.op == "get_attr" and shape_of(node) in (one_each, (1, *one_each))
