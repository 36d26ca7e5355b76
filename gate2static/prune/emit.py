"""The application of a plan: the static network as a graph of sliced layers."""

from collections.abc import Mapping

from torch import fx

from gate2static.graphs import Ids
from gate2static.prune.analysis.channel_access import Same
from gate2static.prune.emission.arrangement import Arrangement
from gate2static.prune.emission.blocks import Origins, blocks
from gate2static.prune.emission.emitter import Emitter
from gate2static.prune.emission.layout import Layout
from gate2static.prune.plan import ChannelPlan
from gate2static.prune.rules import Dense, Rule

LACKS = "lacks"
"""Key of `GraphModule.meta` under which an emitted network says what it lacks in training, as `TrainingMode.lacks`."""


def emit(channels: ChannelPlan, layout: Layout) -> fx.GraphModule:
    """Builds the network of the planned channels in a layout; its output is a tuple over tasks."""
    layers = [rule for rule in channels.rules.values() if isinstance(rule, Dense)]
    arrangement = Arrangement(
        layout,
        numberings=channels.numberings,
        needs=channels.needs,
        blocks=layer_blocks(channels, layout.block_channels),
        unit_ends={layer.node: _unit_end(layer, channels.rules) for layer in layers},
    )
    # In program order: what a rule reads was emitted before it. Nodes without live channels are left out.
    emitter = Emitter(channels.gated, channels.numberings, arrangement)
    for node, rule in channels.rules.items():
        if len(channels.live[node]):
            emitter.parts[node] = rule.emit(channels.live[node], emitter)
    results = [emitter.canonical(channels.rules[node], 0) for node in channels.analysis.outputs.values()]
    emitter.graph.output(tuple(results))
    network = fx.GraphModule(emitter.root, emitter.graph, "Static")
    # Views that were asked for twice, or of channels that only fill up, are read by nothing.
    network.graph.eliminate_dead_code()
    network.recompile()
    network.meta[LACKS] = emitter.training.lacks
    return network.eval()


def layer_blocks(channels: ChannelPlan, min_channels: int) -> dict[fx.Node, Ids]:
    """Finds the blocks that layers are cut into.

    Args:
        channels: The planned channels.
        min_channels: The number of channels that blocks must have on average; 0 for no blocks.

    Returns:
        Node -> the block of each pool channel, for nodes that are cut; empty where layers are filled up, since a block
        of channels that only fill up would be a layer that nothing reads.
    """
    if not min_channels or channels.is_filled_up:
        return {}
    return blocks(
        _origins(channels),
        channels={node: rule.channels for node, rule in channels.rules.items()},
        numberings=channels.numberings,
        needs=channels.needs,
        live=channels.live,
        min_channels=min_channels,
    )


def _origins(channels: ChannelPlan) -> dict[fx.Node, Origins]:
    """Node -> where its channels are worked on one by one, of sources that are read along their own channels."""
    origins: dict[fx.Node, Origins] = {}
    for node, rule in channels.rules.items():
        inputs = [source.numbering(channels.numberings[source.node]) for source in rule.inputs]
        origins[node] = [
            (rule.inputs[number].node, ids)
            for number, ids in rule.origins(channels.numberings[node], inputs)
            if isinstance(rule.inputs[number], Same)
        ]
    return origins


def _unit_end(layer: Rule, rules: Mapping[fx.Node, Rule]) -> fx.Node:
    """Returns the gate that ends a layer's unit, or the last node on the way that keeps the layer's numbers."""
    last = layer
    while len(last.node.users) == 1 and not last.ends_unit:
        following = rules.get(next(iter(last.node.users)))
        if following is None or not following.keeps_numbers:
            break
        last = following
    return last.node
