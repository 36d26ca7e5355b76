"""Channel maps written as convolutions, so that a backend with a layout of its own for convolutions never leaves it.

On the CPU, ONNX Runtime and OpenVINO keep the channels of a layer's tensors in lanes (`traffic_cost.LANES`). Copies
that pick channels, put streams together and mix them leave the lanes and enter them again. A convolution of one
position does the same inside the lanes, adds other tensors and applies the activation while it writes:

    value = Σ_s A_s · s

1. A_s is the identity: s is added as it is.
2. A_s is another diagonal matrix: a depth-wise convolution.
3. A_s is any other matrix: a 1×1 convolution.

Matrices become diagonal where layers write their channels in the order of the sums that read them:

4. *padded*: a layer that has nearly all channels of the sums gets rows of zeros for the others.
5. *narrow*: a layer with few of the channels stays as it is, and every reader has a 1×1 convolution for it.
6. *scattered*: a wide layer is spread by one 1×1 convolution for all its readers.

These convolutions multiply by zeros, ones and mixing weights. They move data and count as none of the network's MACs.
An infinite channel, or one that is not a number, spreads to the other channels.

Requires: an annotated network (`aten.annotate`) with its constants folded. Ensures: the same function on finite values;
every channel map that other operators read is a concatenation, or a sum of convolutions.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor, fx

from gate2static.graphs import Ids, function_of
from gate2static.static.aten import CONVOLUTIONS, dtype_of, shape_of
from gate2static.static.capturing.capture import constant, store
from gate2static.static.deploy.channel_maps import ChannelMap, channel_maps, is_concatenation
from gate2static.static.deploy.traffic_cost import LANES, MACS_PER_NUMBER, NUMBERS_PER_START

_aten = torch.ops.aten


def write_moves_as_convolutions(network: fx.GraphModule) -> bool:
    """Rewrites every channel map that operators other than maps read, in place.

    Values that are other values side by side stay concatenations: backends put whole lanes together as they are.

    Args:
        network: Annotated, with its constants folded.

    Returns:
        Whether there was one.
    """
    maps = channel_maps(network)
    results = {
        node: terms
        for node, terms in maps.items()
        if any(user not in maps for user in node.users)
    }
    sums = {node: terms for node, terms in results.items() if not is_concatenation(node, maps)}
    readers = Counter(source for terms in sums.values() for source in terms)
    concatenated = {source for node, terms in results.items() if node not in sums for source in terms}
    tensors: dict[fx.Node, _SourceTensor] = {}
    for node, terms in sums.items():
        new_sources = [source for source in terms if source not in tensors]
        with network.graph.inserting_before(node):
            for source in new_sources:
                matrices = [others[source] for others in sums.values() if source in others]
                # What others than sums read must keep its channels.
                is_free = source not in concatenated and all(user in maps for user in source.users)
                tensors[source] = _arrange(network, source, matrices) if is_free else _whole(source)
            total = _write_sum(network, node, terms, tensors, readers)
        node.replace_all_uses_with(total)
        # Maps behind this one may have it as a source.
        tensors[node] = _SourceTensor(total, _whole(node).channels)
    return bool(sums)


@dataclass(frozen=True)
class _SourceTensor:
    """A tensor that holds the channels of a source, in an order of its own.

    Attributes:
        node: The tensor's node.
        channels: The source's channel at each place of the tensor; -1 for a channel of zeros.
    """

    node: fx.Node
    channels: Ids

    def matrix(self, of_source: csr_array) -> csr_array:
        """Turns a matrix A_s (C × C_s) into the one (C × places) that gives the same result from this tensor."""
        # Index -1 takes some column, which the mask sets to zero.
        mask = diags_array((self.channels >= 0).astype(float))
        matrix = (of_source[:, self.channels] @ mask).tocsr()
        matrix.eliminate_zeros()
        return matrix


def _whole(source: fx.Node) -> _SourceTensor:
    """Returns a source as it is."""
    return _SourceTensor(source, np.arange(_channels(source)))


def _channels(node: fx.Node) -> int:
    """Returns the number of channels of a value (N, C, *positions)."""
    shape = shape_of(node)
    assert shape is not None
    return shape[1]


def _arrange(network: fx.GraphModule, source: fx.Node, matrices: Sequence[csr_array]) -> _SourceTensor:
    """Writes a layer's channels where the sums that read it have them, if that pays; leaves other sources as they are.

    Args:
        network: The network, which gets the layer's new weights.
        source: A value that only maps read.
        matrices: Its matrix A_s in each sum that reads it.
    """
    places = _places(matrices)
    if places is None or not _is_layer(source):
        return _whole(source)
    channels = np.arange(_channels(source))
    # (channels of a sum): the layer's channel at each place, -1 for zeros
    scattered = np.full(matrices[0].shape[0], -1)
    scattered[places] = channels
    costs = _costs(network, source, matrices)
    cheapest = min(costs, key=costs.__getitem__)
    # Case 4: the layer itself writes zeros at the other places.
    if cheapest == "padded":
        return _with_channels(network, source, scattered)
    # Layers write whole lanes, so filling the last ones up is free.
    filling = np.full(-len(channels) % LANES, -1)
    filled = np.concatenate([channels, filling])
    tensor = _with_channels(network, source, filled)
    # Case 5: its readers spread it.
    if cheapest == "narrow":
        return tensor
    # Case 6: a matrix (channels of a sum × places of the tensor) spreads it.
    matrix = csr_array((np.ones(len(channels)), (places, channels)), (len(scattered), len(filled)))
    spread = _convolution(network, tensor.node, torch.from_numpy(matrix.toarray()), source)
    return _SourceTensor(spread, scattered)


def _costs(network: fx.GraphModule, layer: fx.Node, matrices: Sequence[csr_array]) -> dict[str, float]:
    """Estimates three arrangements of a layer, the simplest first.

    Args:
        network: The network, for the layer's weight.
        layer: A convolution.
        matrices: Its matrix A_s in each sum that reads it.

    Returns:
        Name -> numbers read and written at each position, without what all three have in common.
    """
    channels = _channels(layer)
    size = matrices[0].shape[0]
    readers = len(matrices)
    positions = math.prod((shape_of(layer) or ())[2:])
    macs_per_channel = constant(network, layer.args[1])[0].numel()
    spreading = channels * size / MACS_PER_NUMBER + channels
    return {
        "padded": (size - channels) * macs_per_channel / MACS_PER_NUMBER + 3 * size * readers,
        "narrow": (spreading + 2 * size) * readers,
        "scattered": spreading + size + NUMBERS_PER_START / positions + 3 * size * readers,
    }


def _places(matrices: Sequence[csr_array]) -> Ids | None:
    """Finds where the channels of a source go in all sums that read it.

    Args:
        matrices: The source's matrix A_s (C × C_s) in each sum.

    Returns:
        (C_s,) The place of each channel; None if sums disagree, or two channels go to one place.
    """
    if len({matrix.shape for matrix in matrices}) > 1:
        return None
    everywhere = sum(abs(matrix) for matrix in matrices).tocsc()
    everywhere.eliminate_zeros()
    places: Ids = everywhere.indices
    has_one_place = np.diff(everywhere.indptr) == 1  # (C_s,)
    if not has_one_place.all() or len(np.unique(places)) < len(places):
        return None
    return places


def _is_layer(node: fx.Node) -> bool:
    """Returns whether moving weights moves a value's channels: a convolution without groups, its tensors stored."""
    # conv(x, weight, bias, stride, padding, dilation, groups)
    has_groups = node.args[6:] not in ((), (1,))
    if node.target not in CONVOLUTIONS.values() or node.kwargs or has_groups:
        return False
    return all(stored is None or stored.op == "get_attr" for stored in node.args[1:3])  # type: ignore[union-attr]


def _with_channels(network: fx.GraphModule, layer: fx.Node, channels: Ids) -> _SourceTensor:
    """Copies a layer with other output channels.

    Args:
        network: The network, which gets the new weights.
        layer: A convolution without groups.
        channels: Some of the layer's own channels, and -1 for zeros.
    """
    if np.array_equal(channels, np.arange(_channels(layer))):
        return _whole(layer)
    tensors: list[fx.Node | None] = []
    for stored in layer.args[1:3]:
        if stored is None:
            tensors.append(None)
            continue
        value = constant(network, stored)
        # A row of zeros is appended, which index -1 picks.
        zeros = value.new_zeros(1, *value.shape[1:])
        picked = torch.cat([value, zeros])[torch.from_numpy(channels)]
        tensors.append(network.graph.get_attr(store(network, picked, trained=True)))
    args = (layer.args[0], *tensors, *layer.args[3:])
    copied = network.graph.call_function(function_of(layer), args)
    return _SourceTensor(copied, channels)


def _write_sum(
    network: fx.GraphModule,
    node: fx.Node,
    terms: ChannelMap,
    tensors: dict[fx.Node, _SourceTensor],
    readers: Counter[fx.Node],
) -> fx.Node:
    """Writes Σ_s A_s · s: first what is added as it is, then the convolutions, each of which adds what came before.

    Args:
        network: The network, which gets the matrices.
        node: The value to write.
        terms: Its map.
        tensors: The tensor of every source.
        readers: The number of sums that read each source.

    Returns:
        The sum's node.
    """
    plain = []
    mixed = []
    scaled = []
    for source, of_source in terms.items():
        tensor = tensors[source]
        matrix = tensor.matrix(of_source)
        scales = matrix.diagonal()
        is_square = matrix.shape[0] == matrix.shape[1]
        is_diagonal = is_square and matrix.nnz == np.count_nonzero(scales)
        is_identity = is_diagonal and (scales[tensor.channels >= 0] == 1).all()
        # A layer with other readers cannot add while it writes; a depth-wise convolution behind it can.
        can_add = len(terms) == 1 or not _is_layer(source) or readers[source] == 1
        # Case 1.
        if is_identity and can_add:
            plain.append(tensor.node)
        # Case 2: weights (channels, 1)
        elif is_diagonal:
            weights = torch.from_numpy(scales)[:, None]
            scaled.append(_convolution(network, tensor.node, weights, node, groups=len(scales)))
        # Case 3: weights (channels of the sum, places of the tensor)
        else:
            weights = torch.from_numpy(matrix.toarray())
            mixed.append(_convolution(network, tensor.node, weights, node))
    total, *others = [*plain, *mixed, *scaled]
    for term in others:
        total = network.graph.call_function(_aten.add.Tensor, (term, total))
    return total


def _convolution(network: fx.GraphModule, node: fx.Node, matrix: Tensor, like: fx.Node, groups: int = 1) -> fx.Node:
    """Writes a convolution of one position, without a bias.

    Args:
        network: The network, which gets the weight.
        node: The tensor (N, C, *positions) that the convolution reads.
        matrix: (channels out, channels in / groups) The weights.
        like: A value with the dimensions and the dtype of the result.
        groups: The convolution's number of groups.
    """
    spatial = len(shape_of(like) or ()) - 2
    ones = [1] * spatial
    device = next(chain(network.parameters(), network.buffers())).device
    weight = matrix.to(device, dtype_of(like)).reshape(*matrix.shape, *ones)
    stored = network.graph.get_attr(store(network, weight, trained=True))
    # (stride, padding, dilation, groups)
    settings = (ones, [0] * spatial, ones, groups) if groups > 1 else ()
    return network.graph.call_function(CONVOLUTIONS[spatial + 2], (node, stored, None, *settings))
