"""Channel maps as convolutions, so that a backend with a layout of its own for convolutions never leaves it.

On the CPU, ONNX Runtime and OpenVINO keep channels in blocks. Picking channels, putting streams together and mixing
them undoes the blocks and makes them again. A convolution of one position does the same inside the blocks, adds what
comes from elsewhere and applies the activation while it writes:

    value = Σ_s A_s · s        the identity: a sum; A_s diagonal: a depth-wise convolution; else: a 1×1 convolution

To make matrices diagonal, layers write their channels where the sums have them. A layer that has nearly all of them
gets rows of zeros for the others (*padded*); a wide one is *scattered* once, for all its readers; a narrow one stays as
it is, and every reader has a matrix for it. These convolutions multiply by zeros, ones and mixing weights: they are
movement, and count as none of the network's MACs. Where a channel is infinite or no number, they spread it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor, fx

from gate2static.graphs import Ids, function_of
from gate2static.static.aten import CONVOLUTIONS, dtype_of, shape_of
from gate2static.static.capture import constant, store
from gate2static.static.deploy.channel_maps import ChannelMap, channel_maps, is_concatenation
from gate2static.static.deploy.traffic_cost import BLOCK, MACS, STARTED

_aten = torch.ops.aten


def convolve_moves(network: fx.GraphModule) -> bool:
    """Rewrite, in place, every channel map of a folded network that others than maps read.

    Values that are other values side by side stay concatenations: backends put whole blocks together as they are.

    Returns:
        Whether there was one.
    """
    maps = channel_maps(network)
    read = {node: terms for node, terms in maps.items() if any(user not in maps for user in node.users)}
    sums = {node: terms for node, terms in read.items() if not is_concatenation(node, maps)}
    fixed = {source for node, terms in read.items() if node not in sums for source in terms}
    readers = Counter(source for terms in sums.values() for source in terms)
    tensors: dict[fx.Node, _Tensor] = {}
    for node, terms in sums.items():
        with network.graph.inserting_before(node):
            for source in [source for source in terms if source not in tensors]:
                matrices = [others[source] for others in sums.values() if source in others]
                free = source not in fixed and all(user in maps for user in source.users)
                tensors[source] = _laid_out(network, source, matrices) if free else _whole(source)
            total = _sum(network, node, terms, tensors, readers)
        node.replace_all_uses_with(total)
        tensors[node] = _Tensor(total, _whole(node).channels)
    return bool(sums)


@dataclass(frozen=True)
class _Tensor:
    """A tensor that holds channels of a source.

    Attributes:
        node: the tensor.
        channels: of the source, at each place of the tensor; -1 for zeros.
    """

    node: fx.Node
    channels: Ids

    def matrix(self, of_source: csr_array) -> csr_array:
        """The source's matrix as one of this tensor."""
        found = (of_source[:, self.channels] @ diags_array((self.channels >= 0).astype(float))).tocsr()
        found.eliminate_zeros()
        return found


def _whole(source: fx.Node) -> _Tensor:
    return _Tensor(source, np.arange(_channels(source)))


def _channels(node: fx.Node) -> int:
    shape = shape_of(node)
    assert shape is not None
    return shape[1]


def _laid_out(network: fx.GraphModule, source: fx.Node, readers: Sequence[csr_array]) -> _Tensor:
    """A layer with its channels where the sums that read it have them, if that pays; other sources as they are."""
    places = _places(readers)
    if places is None or not _is_layer(source):
        return _whole(source)
    size, own = readers[0].shape[0], _channels(source)
    # Layers write whole blocks, so filling one up is free.
    filled = np.concatenate([np.arange(own), np.full(-own % BLOCK, -1)])
    placed = np.full(size, -1)
    placed[places] = np.arange(own)
    positions = math.prod((shape_of(source) or ())[2:])
    per_channel = constant(network, source.args[1])[0].numel()
    # Numbers read and written at each position, besides what all three have in common.
    padded = (size - own) * per_channel / MACS + 3 * size * len(readers)
    scattered = own * size / MACS + own + size + STARTED / positions + 3 * size * len(readers)
    narrow = (own * size / MACS + own + 2 * size) * len(readers)
    if padded <= min(scattered, narrow):
        return _with_channels(network, source, placed)
    tensor = _with_channels(network, source, filled)
    if narrow <= scattered:
        return tensor
    matrix = csr_array((np.ones(own), (places, np.arange(own))), (size, len(filled)))
    return _Tensor(_convolution(network, tensor.node, torch.from_numpy(matrix.toarray()), source), placed)


def _places(readers: Sequence[csr_array]) -> Ids | None:
    """Where each channel of a source goes in all sums that read it; None if that differs, or two go to one place."""
    if len({matrix.shape for matrix in readers}) > 1:
        return None
    everywhere = sum(abs(matrix) for matrix in readers).tocsc()
    everywhere.eliminate_zeros()
    places: Ids = everywhere.indices
    once = np.diff(everywhere.indptr) == 1
    return places if once.all() and len(np.unique(places)) == len(places) else None


def _is_layer(node: fx.Node) -> bool:
    """Whether a value's channels can be moved by moving the weights that make them: a convolution without groups."""
    if node.target not in CONVOLUTIONS.values() or node.kwargs or node.args[6:] not in ((), (1,)):
        return False
    return all(stored is None or stored.op == "get_attr" for stored in node.args[1:3])  # type: ignore[union-attr]


def _with_channels(network: fx.GraphModule, layer: fx.Node, channels: Ids) -> _Tensor:
    """A layer with other output channels: some of its own, and zeros where they are -1."""
    if np.array_equal(channels, np.arange(_channels(layer))):
        return _whole(layer)
    moved = []
    for stored in layer.args[1:3]:
        if stored is not None:
            value = constant(network, stored)
            value = torch.cat([value, value.new_zeros(1, *value.shape[1:])])[torch.from_numpy(channels)]
            stored = network.graph.get_attr(store(network, value, trained=True))
        moved.append(stored)
    made = network.graph.call_function(function_of(layer), (layer.args[0], *moved, *layer.args[3:]))
    return _Tensor(made, channels)


def _sum(
    network: fx.GraphModule,
    node: fx.Node,
    terms: ChannelMap,
    tensors: dict[fx.Node, _Tensor],
    readers: Counter[fx.Node],
) -> fx.Node:
    """Σ_s A_s · s: what is added as it is, then 1×1 and depth-wise convolutions, each adding what came before."""
    plain, mixed, scaled = [], [], []
    for source, of_source in terms.items():
        tensor = tensors[source]
        matrix = tensor.matrix(of_source)
        scales = matrix.diagonal()
        diagonal = matrix.shape[0] == matrix.shape[1] and matrix.nnz == np.count_nonzero(scales)
        # A layer that has other readers cannot add while it writes; a depth-wise convolution behind it can.
        adds = len(terms) > 1 and _is_layer(source) and readers[source] > 1
        if diagonal and (scales[tensor.channels >= 0] == 1).all() and not adds:
            plain.append(tensor.node)
        elif diagonal:
            scaled.append(_convolution(network, tensor.node, torch.from_numpy(scales)[:, None], node, len(scales)))
        else:
            mixed.append(_convolution(network, tensor.node, torch.from_numpy(matrix.toarray()), node))
    total, *others = [*plain, *mixed, *scaled]
    for term in others:
        total = network.graph.call_function(_aten.add.Tensor, (term, total))
    return total


def _convolution(network: fx.GraphModule, node: fx.Node, matrix: Tensor, like: fx.Node, groups: int = 1) -> fx.Node:
    """A convolution of one position without a bias, in the dimensions and the dtype of another value."""
    spatial = len(shape_of(like) or ()) - 2
    device = next(network.parameters()).device
    weight = matrix.to(device, dtype_of(like)).reshape(*matrix.shape, *[1] * spatial)
    stored = network.graph.get_attr(store(network, weight, trained=True))
    ones = [1] * spatial
    settings = (ones, [0] * spatial, ones, groups) if groups > 1 else ()
    return network.graph.call_function(CONVOLUTIONS[spatial + 2], (node, stored, None, *settings))
