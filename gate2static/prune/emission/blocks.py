"""Which channels stay together from the layer that makes them to every layer that reads them.

Blocks are the coarsest partition of each pool in which every operator that works channel by channel maps blocks to
blocks, and every stream reads whole blocks. Emitted block by block, tensors are never cut and their channels never
reordered: what a layer reads is some whole tensors side by side.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, fx

from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import Same
from gate2static.prune.analysis.numbering import Numbering, readers
from gate2static.prune.rules import Rule

Origins = Sequence[tuple[fx.Node, Ids]]
"""Sources of a node's channels: a source node, and for each of the pool's channels that of the source; -1 for none."""


def blocks(
    rules: Mapping[fx.Node, Rule],
    numberings: Mapping[fx.Node, Numbering],
    needs: Mapping[fx.Node, Tensor],
    live: Mapping[fx.Node, Ids],
    min_channels: int,
) -> dict[fx.Node, Ids]:
    """Node -> block number of each pool channel; -1 for dead ones (partition refinement)."""
    found = {}
    for node in rules:
        dead = np.setdiff1d(np.arange(numberings[node].size), live[node])
        found[node] = np.unique(readers(numberings[node], needs[node]), return_inverse=True)[1]
        found[node][dead] = -1
    origins: dict[fx.Node, Origins] = {}
    for node, rule in rules.items():
        inputs = [r.numbering(numberings[r.node]) for r in rule.inputs]
        origins[node] = [
            (rule.inputs[i].node, np.where(found[node] < 0, -1, ids))
            for i, ids in rule.origins(numberings[node], inputs)
            if isinstance(rule.inputs[i], Same)
        ]
        if not origins[node]:
            # What different streams' layers made stays apart, so that all blocks have their channels in one order.
            makers = np.where(found[node] < 0, -1, np.arange(len(found[node])) // rule.channels)
            found[node] = _numbered(makers, found[node])
    wide = [group for group in _connected(origins) if _refine(found, group, origins, min_channels)]
    return {node: found[node] for group in wide for node in group}


def _connected(origins: Mapping[fx.Node, Origins]) -> list[list[fx.Node]]:
    """Nodes whose blocks depend on each other, in their order."""
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
    found: dict[fx.Node, Ids], nodes: Sequence[fx.Node], origins: Mapping[fx.Node, Origins], min_channels: int
) -> bool:
    """Split the blocks of connected nodes, in place, until they map to blocks.

    Returns:
        Whether they have at least `min_channels` channels on average; it ends as soon as they have not.
    """
    most = sum(int((found[node] >= 0).sum()) for node in nodes) / min_channels
    count, before = _count(found, nodes), 0
    while before < count <= most:
        for node in nodes:
            columns = [np.where(ids < 0, -1, found[source][ids]) for source, ids in origins[node]]
            found[node] = _numbered(found[node], *columns)
        for node in reversed(nodes):
            for source, ids in origins[node]:
                found[source] = _split_by_results(found[source], ids, found[node])
        before, count = count, _count(found, nodes)
    return count <= most


def _split_by_results(labels: Ids, ids: Ids, results: Ids) -> Ids:
    """Channels of a source stay together where the same blocks of the result come from them."""
    read, width = ids >= 0, results.max(initial=0) + 1
    sources, of_results = np.divmod(np.unique(ids[read] * width + results[read]), width)
    ends = np.searchsorted(sources, np.arange(len(labels) + 1)).tolist()
    sets = [of_results[start:end].tobytes() for start, end in pairwise(ends)]
    number = {of: i for i, of in enumerate(dict.fromkeys(sets))}
    return _numbered(labels, np.array([number[of] for of in sets], dtype=np.int64))


def _numbered(labels: Ids, *columns: Ids) -> Ids:
    """One number for each distinct row of labels and columns, in their order; dead channels keep their -1."""
    numbers = labels
    for column in columns:
        numbers = np.unique(numbers * (column.max(initial=0) + 2) + column + 1, return_inverse=True)[1]
    return np.where(labels < 0, -1, numbers)


def _count(found: Mapping[fx.Node, Ids], nodes: Sequence[fx.Node]) -> int:
    return sum(len(np.unique(found[node][found[node] >= 0])) for node in nodes)
