"""Finds which streams of which values are still read once gates are settled, and which units need fewer channels."""

from collections.abc import Mapping

import numpy as np
from torch import fx

from gate2static.gates.channel_gate import Gate
from gate2static.gates.settled.demand import Bools, Demand
from gate2static.program.program import Program
from gate2static.program.units import gated_unit

_WORTH = 0.9
"""A unit that still needs more than this share of its streams' channels stays whole."""


def find_liveness(
    program: Program, gates: Mapping[str, Gate], settled: Mapping[str, Bools]
) -> tuple[dict[fx.Node, Bools], dict[fx.Node, Demand]]:
    """Finds the streams of each value that are read, and the demand of the units that need fewer channels.

    Args:
        program: The program of the network.
        gates: Unit -> its gate.
        settled: Unit -> (T, C), the gates that will not change any more.

    Returns:
        Node -> (T+1,), the streams that are read; and gate node -> its demand, for the units that are worth cutting.
    """
    # Backwards: a node is read for a stream if one of its users is computed for that stream.
    nodes = list(program.backbone())
    units = {unit.name: unit for unit in program.units}
    tasks = len(next(iter(settled.values())))
    # Callers pass all inputs, whether they are read or not.
    reads = {node: np.full(tasks + 1, node.op == "placeholder") for node in nodes}
    demands = {}

    def read_by_heads(leaf: fx.Node) -> fx.Node:
        reads[leaf][:tasks] = True
        return leaf

    fx.map_arg(program.features, read_by_heads)
    for node in reversed(nodes):
        read = reads[node]
        if node.target is gated_unit and read.any():
            unit = units[str(node.args[1])]
            specific = gates[unit.name].decisions().cpu().numpy()
            demand = Demand(settled=settled[unit.name], specific=specific, read=read)
            computed = np.array([len(channels) for channels in demand.computed])
            is_worth_it = computed.sum() <= _WORTH * len(computed) * unit.channels
            if is_worth_it:
                demands[node] = demand
            # A whole gate mixes all streams.
            read = computed > 0 if is_worth_it else np.ones_like(read)
        for source in node.all_input_nodes:
            reads[source] |= read
    return reads, demands
