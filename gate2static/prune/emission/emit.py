"""Plan -> the static network as a graph of sliced layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx

from gate2static.gates.model import GatedModel
from gate2static.graphs import Ids
from gate2static.prune.analysis.analyse import Rules, demand, match_rules, number, outputs
from gate2static.prune.analysis.numbering import Numbering
from gate2static.prune.emission.blocks import blocks
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.layout import LOWERING, Lowering
from gate2static.prune.rules import Dense


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which physical channels the static network computes, decided before anything is built.

    Attributes:
        rules: node -> its rule.
        numberings: node -> pool and views.
        needs: node -> (S, C) 0/1.
        live: node -> pool channels that are computed.
        blocks: node -> block of each pool channel, for nodes that are cut into blocks.
        lowering: how it is emitted.
    """

    rules: Rules
    numberings: Mapping[fx.Node, Numbering]
    needs: Mapping[fx.Node, Tensor]
    live: Mapping[fx.Node, Ids]
    blocks: Mapping[fx.Node, Ids]
    lowering: Lowering

    def macs(self, nodes: Iterable[fx.Node] | None = None) -> int:
        """Per sample, of the network that `emit` builds, or of some of its nodes."""
        chosen = self.rules if nodes is None else nodes
        return sum(self.rules[n].live_macs(self.live[n], self.numberings[n]) for n in chosen if self.rules[n].info.macs)


def plan(gated: GatedModel, *, lowering: Lowering = LOWERING) -> Plan:
    """Decide what the static network computes; pure."""
    rules = match_rules(gated)
    decisions = {n: g.decisions().cpu() for n, g in gated.gates.items()}
    numberings = number(gated, rules, decisions)
    needs = demand(gated, rules, {n: d.double() for n, d in decisions.items()})
    live = {node: np.unique(numberings[node].views[needs[node].numpy() > 0]) for node in rules}
    if lowering.align > 1:
        for node, rule in rules.items():
            if isinstance(rule, Dense):
                live[node] = _fill_up(rule, live[node], lowering.align)
    # A block of channels that only fill up would be a layer that nobody reads.
    cuts = lowering.block_channels and lowering.align == 1
    cut = blocks(rules, numberings, needs, live, lowering.block_channels) if cuts else {}
    return Plan(rules=rules, numberings=numberings, needs=needs, live=live, blocks=cut, lowering=lowering)


def _fill_up(rule: Dense, live: Ids, align: int) -> Ids:
    """Add dead channels of a layer's streams until each has a multiple of `align`, or all it has."""
    kept = []
    for stream in range(rule.streams):
        own = np.arange(rule.channels) + stream * rule.channels
        alive = np.isin(own, live)
        missing = -int(alive.sum()) % align
        kept.append(np.sort(np.concatenate([own[alive], own[~alive][:missing]])))
    return np.concatenate(kept)


def emit(gated: GatedModel, decided: Plan) -> fx.GraphModule:
    """Build the network that the plan describes; its output is a tuple over tasks."""
    emitter = Emitter(gated, decided.rules, decided.numberings, decided.needs, decided.blocks, decided.lowering)
    emitter.inputs = [emitter.graph.placeholder(p.name) for p in gated.program.graph.find_nodes(op="placeholder")]
    for node, rule in decided.rules.items():
        if len(decided.live[node]):
            emitter.pools[node] = rule.emit(decided.live[node], emitter)
    results = [emitter.canonical(decided.rules[node], 0) for node in outputs(gated).values()]
    emitter.graph.output(tuple(results))
    network = fx.GraphModule(emitter.root, emitter.graph, "Static")
    network.graph.eliminate_dead_code()
    network.recompile()
    return network.eval()
