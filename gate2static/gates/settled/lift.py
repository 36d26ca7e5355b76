"""Lifts a network whose gates are partly settled: training computes only what undecided gates still need.

1. Backwards over the program, `find_liveness` finds the streams of each value that are still read, and the units that
   need fewer channels than before.
2. Forwards, a value is either one node per stream, as in `lift`, or one tensor of distinct channels with a view for
   each stream (`SettledGate` makes them). What works channel by channel works on distinct channels. Everything else
   reads the streams, and streams with equal views are one tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from gate2static.gates.channel_gate import Gate
from gate2static.gates.settled.demand import Bools, Demand, Ids
from gate2static.gates.settled.gate import SettledGate
from gate2static.gates.settled.layers import NarrowLayer, narrowable
from gate2static.gates.settled.liveness import find_liveness
from gate2static.gates.settled.operators import works_by_channel
from gate2static.gates.settled.rectifiers import rectify_in_place
from gate2static.gates.settled.writing import NetworkWriter
from gate2static.program.program import Program
from gate2static.program.units import gated_unit, owns_state

_DISTINCT = 0.7
"""Where a sum would have more distinct channels than this share of the streams', it is made stream by stream."""


@dataclass
class _DistinctChannels:
    """A value as distinct channels.

    Attributes:
        node: The node whose value has them.
        count: The number of distinct channels.
        views: (T+1, C), the distinct channel that is each stream's channel; -1 in streams that are not read.
        dim: The channel dimension.
    """

    node: fx.Node
    count: int
    views: Ids
    dim: int


@dataclass
class _Value:
    """The value of a program node as streams, as distinct channels, or as both once something read the streams.

    Attributes:
        streams: For each stream its node, or None where it is not made yet.
        distinct: The distinct channels, or None for a value that has streams only.
    """

    streams: list[fx.Node | None]
    distinct: _DistinctChannels | None = None


def lift_settled(
    program: Program,
    branches: Mapping[str, nn.Module],
    gates: Mapping[str, Gate],
    settled: Mapping[str, Bools],
) -> fx.GraphModule | None:
    """Builds the network that trains once gates are settled.

    Args:
        program: The program of the network.
        branches: Stream -> its copy of the backbone, the shared stream last.
        gates: Unit -> its gate.
        settled: Unit -> (T, C), the gates that will not change any more.

    Returns:
        A module that is called like the one of `lift` and uses the same layers and gates, or None where that would
        save nothing. It has the same outputs, the same gradients where settled gates have none, and the same running
        statistics of all channels that are still needed; those of the others stay as they are.
    """
    reads, demands = find_liveness(program, gates, settled)
    if not demands:
        return None
    return _SettledLift(program, branches, gates, reads, demands).build()


class _SettledLift:
    """One lift, see `lift_settled`.

    Args:
        program: The program of the network.
        branches: Stream -> its copy of the backbone, the shared stream last.
        gates: Unit -> its gate.
        reads: Node -> (T+1,), the streams that are read.
        demands: Gate node -> its demand, for the units that are cut.
    """

    def __init__(
        self,
        program: Program,
        branches: Mapping[str, nn.Module],
        gates: Mapping[str, Gate],
        reads: Mapping[fx.Node, Bools],
        demands: Mapping[fx.Node, Demand],
    ) -> None:
        self._program = program
        self._branches = branches
        self._gates = gates
        self._reads = reads
        self._demands = demands
        self._units = {unit.name: unit for unit in program.units}
        self._writer = NetworkWriter(branches, gates)
        self._values: dict[fx.Node, _Value] = {}
        self._settled_gates: dict[fx.Node, SettledGate] = {}

    def build(self) -> fx.GraphModule:
        """Returns the network."""
        layers = {node: self._layer(node) for node in self._demands}
        # Layers and norms of cut units run as parts of their units.
        inside = {node for unit in layers.values() for node in unit or ()}
        for node in self._program.backbone():
            if node in inside or not self._reads[node].any():
                continue
            if node in self._demands:
                self._values[node] = self._settled_unit(node, layers[node])
            elif node.target is gated_unit:
                self._values[node] = self._whole_gate(node)
            else:
                self._values[node] = self._by_channel(node) or self._by_stream(node)
        network = rectify_in_place(self._writer.finish(self._features()))
        self._keep_gradients(network)
        return network

    def _features(self) -> tuple[Any, ...]:
        """Returns the output: the backbone's output structure for each task."""
        tasks = len(self._branches) - 1
        read = np.arange(tasks + 1) < tasks
        # Leaf of the program's output -> its streams.
        leaves: dict[fx.Node, list[fx.Node | None]] = {}
        fx.map_arg(self._program.features, lambda leaf: leaves.setdefault(leaf, self._streams(leaf, read)))
        features = []
        for task in range(tasks):
            of_task = {leaf: streams[task] for leaf, streams in leaves.items()}
            features.append(fx.map_arg(self._program.features, of_task.__getitem__))
        return tuple(features)

    def _layer(self, gate: fx.Node) -> tuple[fx.Node, ...] | None:
        """Returns the nodes of a unit that can be computed in part.

        Args:
            gate: The gate of the unit.

        Returns:
            The layer, and the norm if there is one; None where the unit has to be computed whole.
        """
        branch = next(iter(self._branches.values()))
        return narrowable(branch, gate.all_input_nodes[0])

    def _whole_gate(self, node: fx.Node) -> _Value:
        """Calls a gate as `lift` does: on all streams.

        Args:
            node: The gate of a unit that still needs almost all of its channels.
        """
        everything = np.ones(len(self._branches), bool)
        inputs = self._streams(node.all_input_nodes[0], everything)
        return _Value([*self._writer.call_gate(str(node.args[1]), inputs)])

    def _settled_unit(self, node: fx.Node, layer: tuple[fx.Node, ...] | None) -> _Value:
        """Computes the channels that a unit needs, and makes the distinct channels of them.

        Args:
            node: The gate of the unit.
            layer: The nodes of the unit's layer and norm, or None where the unit is computed whole and then cut.
        """
        demand = self._demands[node]
        unit = self._units[str(node.args[1])]
        source = node.all_input_nodes[0] if layer is None else layer[0].all_input_nodes[0]
        is_computed = np.array([len(channels) > 0 for channels in demand.computed])
        streams = self._streams(source, is_computed)
        parts = []
        for branch, stream, channels in zip(self._branches.values(), streams, demand.computed, strict=True):
            # A stream that was made for another reader may have nothing to compute here.
            if stream is None or not len(channels):
                continue
            if layer is None:
                parts.append(self._writer.pick(stream, unit.dim, [channels], unit.channels)[0])
                continue
            modules = [branch.get_submodule(str(n.target)) for n in layer]
            narrow = NarrowLayer(*modules, channels=self._writer.index(channels))
            parts.append(self._writer.call(f"{unit.name}_layer", narrow, stream))
        gate = SettledGate(self._gates[unit.name], demand)
        self._settled_gates[node] = gate
        call = self._writer.call(f"{unit.name}_gate", gate, *parts)
        distinct = _DistinctChannels(call, demand.starts[-1], demand.views, unit.dim)
        return _Value([None] * len(streams), distinct)

    def _by_stream(self, node: fx.Node) -> _Value:
        """Copies a node as `lift` does, for the streams that are read.

        Args:
            node: The node of the program.
        """
        read = self._reads[node]
        inputs = {n: self._streams(n, read) for n in node.all_input_nodes}
        copies: list[fx.Node | None] = [None] * len(read)
        names = list(self._branches)
        # What streams have in common is in the first branch alone.
        has_state = owns_state(self._branches[names[0]], node)
        for stream in np.flatnonzero(read):
            arguments = {n: streams[stream] for n, streams in inputs.items()}
            copies[stream] = self._writer.copy(node, names[stream if has_state else 0], arguments)
        return _Value(copies)

    def _by_channel(self, node: fx.Node) -> _Value | None:
        """Copies a node that works channel by channel once, on distinct channels.

        Returns:
            The value, or None where the node does not work like that, or where that would be more work.
        """
        inputs = node.all_input_nodes
        operands = [operand for n in inputs if (operand := self._values[n].distinct) is not None]
        name, branch = next(iter(self._branches.items()))
        if not inputs or len(operands) < len(inputs):
            return None
        if not works_by_channel(branch, node, {operand.dim for operand in operands}):
            return None
        read = self._reads[node]
        dim = operands[0].dim
        no_streams: list[fx.Node | None] = [None] * len(read)
        # (operands, T+1, C): the distinct channel of each operand.
        views = np.stack([np.where(read[:, None], operand.views, -1) for operand in operands])
        if len(operands) == 1:
            copied = self._writer.copy(node, name, {inputs[0]: operands[0].node})
            return _Value(no_streams, _DistinctChannels(copied, operands[0].count, views[0], dim))
        # Distinct combinations of the operands' channels are the distinct channels of the result.
        in_read = views[:, read]
        combinations, inverse = np.unique(in_read.reshape(len(views), -1), axis=1, return_inverse=True)
        of_streams = in_read.transpose(1, 0, 2).reshape(in_read.shape[1], -1)
        different_streams = len(np.unique(of_streams, axis=0))
        if combinations.shape[1] > _DISTINCT * different_streams * views.shape[2]:
            return None
        arguments = {}
        for n, operand, channels in zip(inputs, operands, combinations, strict=True):
            arguments[n] = self._writer.pick(operand.node, operand.dim, [channels], operand.count)[0]
        result_views = np.full(views.shape[1:], -1)
        result_views[read] = inverse.reshape(in_read.shape[1:])
        copied = self._writer.copy(node, name, arguments)
        return _Value(no_streams, _DistinctChannels(copied, combinations.shape[1], result_views, dim))

    def _streams(self, node: fx.Node, read: Bools) -> list[fx.Node | None]:
        """Returns a value's nodes for the streams that are read, and for those that were made before.

        Args:
            node: The node of the program.
            read: (T+1,), the streams that are read.
        """
        value = self._values[node]
        missing = [stream for stream in np.flatnonzero(read) if value.streams[stream] is None]
        if missing and value.distinct is not None:
            distinct = value.distinct
            # Streams with equal views are one tensor.
            views, which = np.unique(distinct.views[missing], axis=0, return_inverse=True)
            picked = self._writer.pick(distinct.node, distinct.dim, list(views), distinct.count)
            for stream, index in zip(missing, which.ravel(), strict=True):
                value.streams[stream] = picked[index]
        return value.streams

    def _keep_gradients(self, network: fx.GraphModule) -> None:
        """Gives parameters that take no part zero gradients.

        They get them through the first gate that heads read anything of, since its backward always runs.

        Args:
            network: The network, which has only the parameters that take part.
        """
        used = {id(p) for p in network.parameters()}
        modules = [*self._branches.values(), *self._gates.values()]
        parameters = {id(p): p for module in modules for p in module.parameters()}
        # Backwards from the output: the nodes of the program that heads read anything of.
        read: set[fx.Node] = set()
        for node in reversed(self._program.graph.nodes):
            if node.op == "output" or node in read:
                read.update(node.all_input_nodes)
        first = next((gate for node, gate in self._settled_gates.items() if node in read), None)
        if first is not None:
            first.unused.extend(p for key, p in parameters.items() if key not in used and p.requires_grad)
