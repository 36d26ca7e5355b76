"""Blocks: channels that stay together from the layer that makes them to every layer that reads them.

Blocks are the coarsest partition of each value's channels for which

1. every stream reads whole blocks, and
2. every operator that works channel by channel maps blocks to blocks.

Emitted block by block, tensors are never cut and their channels never reordered: what a layer reads is some whole
tensors side by side. For example, take a layer of 8 channels and two tasks. Task a picks its own channels 0 to 3, task
b its own channels 4 to 7, and both read the shared ones otherwise. Then the blocks are a's 0 to 3, b's 4 to 7, and the
shared 0 to 3 (read by b) and 4 to 7 (read by a).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, fx

from gate2static.graphs import Ids
from gate2static.prune.analysis.need import readers
from gate2static.prune.analysis.numbering import Numbering

Origins = Sequence[tuple[fx.Node, Ids]]
"""The sources of a node's channels: a source node, and (size,) for each pool channel that of the source, or -1."""


def blocks(
    origins: Mapping[fx.Node, Origins],
    *,
    channels: Mapping[fx.Node, int],
    numberings: Mapping[fx.Node, Numbering],
    needs: Mapping[fx.Node, Tensor],
    live: Mapping[fx.Node, Ids],
    min_channels: int,
) -> dict[fx.Node, Ids]:
    """Finds the blocks by partition refinement.

    Args:
        origins: Node -> where its channels are worked on one by one, in program order.
        channels: Node -> C.
        numberings: Node -> its numbering.
        needs: Node -> (S, C) 0/1.
        live: Node -> the pool channels that are computed.
        min_channels: The number of channels that blocks must have on average among nodes that depend on each other;
            where they have fewer, those nodes are left out.

    Returns:
        Node -> the block number of each pool channel; -1 for dead ones.
    """
    labels: dict[fx.Node, Ids] = {}
    living_origins: dict[fx.Node, Origins] = {}
    for node, sources in origins.items():
        numbering = numberings[node]
        dead = np.setdiff1d(np.arange(numbering.size), live[node])
        # The first partition: channels with the same readers.
        labels[node] = np.unique(readers(numbering, needs[node]), return_inverse=True)[1]
        labels[node][dead] = -1
        living_origins[node] = [(source, np.where(labels[node] < 0, -1, ids)) for source, ids in sources]
        if not sources:
            # What different streams' layers made stays apart, so that all blocks have their channels in one order.
            makers = np.where(labels[node] < 0, -1, np.arange(len(labels[node])) // channels[node])
            labels[node] = _numbered(makers, labels[node])
    wide = [group for group in _connected(living_origins) if _refine(labels, group, living_origins, min_channels)]
    return {node: labels[node] for group in wide for node in group}


def _connected(origins: Mapping[fx.Node, Origins]) -> list[list[fx.Node]]:
    """Groups the nodes whose blocks depend on each other, in their order."""
    together = {node: {node} for node in origins}
    for node, sources in origins.items():
        for source, _ in sources:
            if together[source] is not together[node]:
                together[node] |= together[source]
                for member in together[source]:
                    together[member] = together[node]
    groups: dict[int, list[fx.Node]] = {}
    for node in origins:
        groups.setdefault(id(together[node]), []).append(node)
    return list(groups.values())


def _refine(
    labels: dict[fx.Node, Ids], nodes: Sequence[fx.Node], origins: Mapping[fx.Node, Origins], min_channels: int
) -> bool:
    """Splits the blocks of connected nodes, in place, until they map to blocks.

    Returns:
        Whether the blocks have at least `min_channels` channels on average. Refining only splits, so it ends as soon as
        they have fewer.
    """
    most_blocks = sum(int((labels[node] >= 0).sum()) for node in nodes) / min_channels
    block_count = _count(labels, nodes)
    count_before = 0
    while count_before < block_count <= most_blocks:
        # Results of different blocks go apart …
        for node in nodes:
            columns = [np.where(ids < 0, -1, labels[source][ids]) for source, ids in origins[node]]
            labels[node] = _numbered(labels[node], *columns)
        # … and so do channels of which different blocks are made.
        for node in reversed(nodes):
            for source, ids in origins[node]:
                labels[source] = _split_by_results(labels[source], ids, labels[node])
        count_before = block_count
        block_count = _count(labels, nodes)
    return block_count <= most_blocks


def _split_by_results(labels: Ids, ids: Ids, results: Ids) -> Ids:
    """Splits the blocks of a source so that channels stay together where they make the same blocks of the result.

    Args:
        labels: (source size,) The blocks of the source.
        ids: (result size,) The source's channel of each of the result's; -1 for none.
        results: (result size,) The blocks of the result.
    """
    has_source = ids >= 0
    width = results.max(initial=0) + 1
    # Distinct pairs of a source channel and a block of the result, sorted by the former.
    sources, result_blocks = np.divmod(np.unique(ids[has_source] * width + results[has_source]), width)
    ends = np.searchsorted(sources, np.arange(len(labels) + 1)).tolist()
    block_sets = [result_blocks[start:end].tobytes() for start, end in pairwise(ends)]
    number = {block_set: i for i, block_set in enumerate(dict.fromkeys(block_sets))}
    return _numbered(labels, np.array([number[block_set] for block_set in block_sets], dtype=np.int64))


def _numbered(labels: Ids, *columns: Ids) -> Ids:
    """Numbers the distinct rows of labels and columns in their order; dead channels keep their -1."""
    numbers = labels
    for column in columns:
        numbers = np.unique(numbers * (column.max(initial=0) + 2) + column + 1, return_inverse=True)[1]
    return np.where(labels < 0, -1, numbers)


def _count(labels: Mapping[fx.Node, Ids], nodes: Sequence[fx.Node]) -> int:
    return sum(len(np.unique(labels[node][labels[node] >= 0])) for node in nodes)
