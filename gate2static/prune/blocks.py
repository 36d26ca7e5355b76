"""Which channels stay together from the layer that makes them to every layer that reads them.

Blocks are the coarsest partition of each pool in which every operator that works channel by channel maps blocks to
blocks, and every stream reads whole blocks. Emitted block by block, tensors are never cut and their channels never
reordered: what a layer reads is some whole tensors side by side.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, fx

from gate2static.prune.channels import Ids, Numbering, readers
from gate2static.prune.reading import Same
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
        found[node] = readers(numberings[node], needs[node])
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
            found[node] = _numbered(np.stack([makers, found[node]], 1))
    count, before = _count(found), 0
    while count > before:
        for node in rules:
            columns = [np.where(ids < 0, -1, found[source][ids]) for source, ids in origins[node]]
            found[node] = _numbered(np.stack([found[node], *columns], 1))
        for node in reversed(list(rules)):
            for source, ids in origins[node]:
                found[source] = _split_by_results(found[source], ids, found[node])
        before, count = count, _count(found)
    narrow = _narrow(found, origins, min_channels)
    return {node: labels for node, labels in found.items() if node not in narrow}


def _narrow(found: Mapping[fx.Node, Ids], origins: Mapping[fx.Node, Origins], min_channels: int) -> set[fx.Node]:
    """Nodes whose blocks depend on each other and have fewer channels than `min_channels` on average."""
    together = {node: {node} for node in found}
    for node, sources in origins.items():
        for source, _ in sources:
            if together[source] is not together[node]:
                together[node] |= together[source]
                for member in together[source]:
                    together[member] = together[node]
    narrow: set[fx.Node] = set()
    for members in {id(group): group for group in together.values()}.values():
        labels = [found[n][found[n] >= 0] for n in members]
        number = sum(len(np.unique(v)) for v in labels)
        if sum(len(v) for v in labels) < min_channels * number:
            narrow |= members
    return narrow


def _split_by_results(labels: Ids, ids: Ids, results: Ids) -> Ids:
    """Channels of a source stay together where the same blocks of the result come from them."""
    read = ids >= 0
    pairs = np.unique(np.stack([ids[read], results[read]], 1), axis=0)
    sets = [frozenset[int]()] * len(labels)
    for group in np.split(pairs, np.flatnonzero(np.diff(pairs[:, 0])) + 1):
        if len(group):
            sets[group[0, 0]] = frozenset(group[:, 1].tolist())
    number = {s: i for i, s in enumerate(dict.fromkeys(sets))}
    return _numbered(np.stack([labels, np.array([number[s] for s in sets])], 1))


def _numbered(rows: Ids) -> Ids:
    """One number for each distinct row; rows of dead channels, which start with -1, keep that."""
    numbers = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    return np.where(rows[:, 0] < 0, -1, numbers)


def _count(labels: Mapping[fx.Node, Ids]) -> int:
    return sum(len(np.unique(v[v >= 0])) for v in labels.values())
