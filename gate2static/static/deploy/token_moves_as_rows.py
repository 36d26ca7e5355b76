"""Channels of tokens moved as rows: where channels come last, values are kept with channels before positions.

Along the last dimension, ONNX Runtime picks channels number by number. Along an earlier one, it copies a row of
positions at a time. So what lies between the layers (`token_regions`) works on values whose positions come last,

    (N, L, C) -> (N, C, L),    (N, H, W, C) -> (N, C, H, W),    (N, L, heads, C / heads) -> (N, C, L)

and what layers, norms and attention read and write is permuted; next to matrix products that is free. Slices, gathers
and concatenations become rows of what `token_region_writer` puts side by side. No number is computed differently.

1. Permutations are composed, and picks come before them.
2. Attention is written as its products, which take permuted operands as they are.
3. Regions are rewritten where that moves less.
4. Permutations that meet are composed again, and fold into the products.

Requires: an annotated network (`aten.annotate`) with its constants folded. Ensures: the same function; outputs may lie
permuted in memory. A network that reads strides stays as it is, and so does one that picks no channels behind
positions.
"""

import torch
from torch import fx

from gate2static.static.aten import elements
from gate2static.static.deploy.compose_permutations import PERMUTATIONS, compose_permutations, pick_before_permuting
from gate2static.static.deploy.decompose_attention import decompose_attention, transpose_products
from gate2static.static.deploy.token_operators import PICKS, moves_channels
from gate2static.static.deploy.token_region_writer import RegionWriter
from gate2static.static.deploy.token_regions import Region, token_regions
from gate2static.static.deploy.traffic_cost import copy_cost

_aten = torch.ops.aten
_STRIDE_READERS = {_aten.view_as_complex.default, _aten.view.dtype}
"""Operators for dimensions that lie side by side in memory, which permuted ones do not."""
_NUMBERS_OF_POSITIONS = (1, 2, 3)
"""Dimensions of positions: those of tokens or sequences, of images, of volumes."""
_PERMUTED_FREELY = {
    *PERMUTATIONS,
    _aten.linear.default,
    _aten.matmul.default,
    _aten.bmm.default,
}
"""Operators before which a permutation costs nothing."""
_ROW_COST = 0.6
"""Time of a number copied in a row of positions; 1 is the time of one copied along channels that come last."""
_PERMUTATION_COST = 1.5
"""Time of a number permuted, in the same unit."""


def write_token_moves_as_rows(network: fx.GraphModule) -> bool:
    """Rewrites what picks channels behind positions, and the pointwise operators beside it, in place.

    Regions in which permuting takes longer than rows save stay as they are: channels move in long runs there. Cases 1,
    2 and 4 apply whether or not a region is rewritten.

    Args:
        network: Annotated, with its constants folded.

    Returns:
        Whether anything changed.
    """
    picks = network.graph.find_nodes(op="call_function", target=PICKS)
    picks_behind_positions = any(node.args[1:2] not in ((0,), (1,)) for node in picks)
    reads_strides = any(node.target in _STRIDE_READERS for node in network.graph.nodes)
    if reads_strides or not picks_behind_positions:
        return False
    # Case 1.
    changed = compose_permutations(network)
    changed |= pick_before_permuting(network)
    # Case 2.
    products = decompose_attention(network)
    changed |= bool(products)
    # Case 3.
    for positions in _NUMBERS_OF_POSITIONS:
        for region in token_regions(network, positions):
            if _pays(region):
                RegionWriter(network, region).write()
                changed = True
        network.graph.eliminate_dead_code()
    # Case 4.
    changed |= compose_permutations(network)
    changed |= transpose_products(products)
    changed |= compose_permutations(network)
    return changed


def _pays(region: Region) -> bool:
    """Returns whether moving rows and permuting takes less time than moving channels where they are.

    Args:
        region: A region of an annotated network.
    """
    # What enters the region is permuted, and what leaves it.
    permuted = [
        source
        for source in region.sources
        if source not in region and source.target not in PERMUTATIONS
    ]
    for node, readers in region.readers.items():
        if any(reader.target not in _PERMUTED_FREELY for reader in readers):
            permuted.append(node)
    # Every value that is not a whole source is copied, and so is every source of a stack.
    rows = 0
    stacked = set[int]()
    for node, pieces in region.reads.items():
        is_whole_source = len(pieces) == 1 and pieces[0].length == region.size(pieces[0].source)
        if not is_whole_source:
            rows += elements(node)
        sources = {piece.source for piece in pieces}
        if len(sources) > 1 and region.is_gathered(pieces):
            stacked |= sources
    rows += sum(elements(region.sources[source]) for source in stacked)
    moved_as_rows = _ROW_COST * rows + _PERMUTATION_COST * sum(map(elements, permuted))
    moves = [node for node in region.nodes if moves_channels(node, region.positions)]
    moved_in_place = sum(copy_cost(node) for node in moves)
    return moved_as_rows < moved_in_place
