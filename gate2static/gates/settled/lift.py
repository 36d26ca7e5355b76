"""The lift of a network whose gates are partly settled: what trains computes only what undecided gates still need.

Backwards over the program, `_reads` says which streams of which values are still read. Forwards, a value is either one
node a stream, as in `lift`, or one tensor of rows with a view for each stream (`SettledGate` makes them). What works
channel by channel works on rows; everything else reads the streams, and streams with equal views are one tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from gate2static.gates.channel_gate import Gate
from gate2static.gates.lift import named_modules, take
from gate2static.gates.settled.demand import Bools, Demand, Ids
from gate2static.gates.settled.gate import SettledGate
from gate2static.gates.settled.layers import NarrowLayer, ReadRows, narrowable
from gate2static.gates.settled.operators import works_by_channel
from gate2static.gates.settled.rectifiers import rectify_in_place
from gate2static.program.program import Program
from gate2static.program.units import gated_unit, owns_state

_WORTH = 0.9
"""A unit that still needs more than this share of its streams' channels stays whole."""
_DISTINCT = 0.7
"""Where a sum of rows would have more than this share of the streams' channels, it is made stream by stream."""


@dataclass
class _Rows:
    """A value as rows: `views` is (T+1, C), -1 in streams that are not read."""

    node: fx.Node
    count: int
    views: Ids
    dim: int


@dataclass
class _Value:
    """A program node's value: rows, streams, or both once somebody read the streams."""

    streams: list[fx.Node | None]
    rows: _Rows | None = None


def lift_settled(
    program: Program,
    branches: Mapping[str, nn.Module],
    gates: Mapping[str, Gate],
    settled: Mapping[str, Bools],
) -> fx.GraphModule | None:
    """Build the network that trains once gates are settled.

    Args:
        program: what to compute.
        branches: stream name -> copy of the backbone; the shared stream last.
        gates: unit name -> its gate.
        settled: unit name -> (T, C), which of its gates will not change any more.

    Returns:
        A module called like the one of `lift` that uses the same layers and gates, or None where that would save
        nothing. It has the same outputs, the same gradients where settled gates have none, and the same running
        statistics of all channels that are still needed; those of the others stay as they are.
    """
    reads, demands = _liveness(program, gates, settled)
    if not demands:
        return None
    return _SettledLift(program, branches, gates, reads, demands).build()


def _liveness(
    program: Program, gates: Mapping[str, Gate], settled: Mapping[str, Bools]
) -> tuple[dict[fx.Node, Bools], dict[fx.Node, Demand]]:
    """Which streams of each value are read, (T+1,); and what is left to do in the units where that is less."""
    nodes = list(program.backbone())
    units = {unit.name: unit for unit in program.units}
    tasks = len(next(iter(settled.values())))
    reads = {node: np.full(tasks + 1, node.op == "placeholder") for node in nodes}  # callers pass them, read or not
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
            narrow = computed.sum() <= _WORTH * len(computed) * unit.channels
            if narrow:
                demands[node] = demand
            read = computed > 0 if narrow else np.ones_like(read)
        for source in node.all_input_nodes:
            reads[source] |= read
    return reads, demands


class _SettledLift:
    """One lift: see `lift_settled`."""

    def __init__(
        self,
        program: Program,
        branches: Mapping[str, nn.Module],
        gates: Mapping[str, Gate],
        reads: Mapping[fx.Node, Bools],
        demands: Mapping[fx.Node, Demand],
    ) -> None:
        self._program, self._branches, self._gates = program, branches, gates
        self._reads, self._demands = reads, demands
        self._units = {unit.name: unit for unit in program.units}
        self._device = next(iter(gates.values())).alpha.device
        self._root, self._graph = nn.Module(), fx.Graph()
        self._root.branches, self._root.gates = named_modules(branches), named_modules(gates)
        self._root.made = nn.Module()
        self._values: dict[fx.Node, _Value] = {}
        self._copies: dict[Any, fx.Node] = {}
        self._made: dict[fx.Node, SettledGate] = {}

    def build(self) -> fx.GraphModule:
        """The network."""
        layers = {node: self._layer(node) for node in self._demands}
        inside = {node for found in layers.values() for node in found or ()}
        for node in self._program.backbone():
            if node in inside or not self._reads[node].any():
                continue
            if node in self._demands:
                self._values[node] = self._settled_unit(node, layers[node])
            elif node.target is gated_unit:
                inputs = self._streams(node.all_input_nodes[0], np.ones(len(self._branches), bool))
                call = self._graph.call_module(f"gates.{node.args[1]}", tuple(inputs))
                streams = [self._graph.call_function(take, (call, s)) for s in range(len(self._branches))]
                self._values[node] = _Value(list(streams))
            else:
                self._values[node] = self._by_rows(node) or _Value(self._by_streams(node))
        tasks = np.arange(len(self._branches)) < len(self._branches) - 1
        leaves: dict[fx.Node, list[fx.Node | None]] = {}
        fx.map_arg(self._program.features, lambda leaf: leaves.setdefault(leaf, self._streams(leaf, tasks)))
        features = [{n: streams[t] for n, streams in leaves.items()} for t in np.flatnonzero(tasks)]
        self._graph.output(tuple(fx.map_arg(self._program.features, found.__getitem__) for found in features))
        self._graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self._graph.lint()
        network = rectify_in_place(fx.GraphModule(self._root, self._graph, "SettledLift"))
        self._keep_gradients(network)
        return network

    def _layer(self, gate: fx.Node) -> tuple[fx.Node, ...] | None:
        """The nodes of a unit that can be computed in part: its layer, and the norm if there is one."""
        branch = next(iter(self._branches.values()))
        return narrowable(branch, gate.all_input_nodes[0])

    def _settled_unit(self, node: fx.Node, layer: tuple[fx.Node, ...] | None) -> _Value:
        demand, unit = self._demands[node], self._units[str(node.args[1])]
        computed = demand.computed
        end = node.all_input_nodes[0]
        source = end if layer is None else layer[0].all_input_nodes[0]
        streams = self._streams(source, np.array([len(channels) > 0 for channels in computed]))
        parts = []
        for branch, stream, channels in zip(self._branches.values(), streams, computed, strict=True):
            if stream is None or not len(channels):
                continue
            index = self._index(channels)
            if layer is not None:
                modules = [branch.get_submodule(str(n.target)) for n in layer]
                parts.append(self._call(f"{unit.name}_layer", NarrowLayer(*modules, channels=index), stream))
            elif np.array_equal(channels, np.arange(unit.channels)):
                parts.append(stream)
            else:
                parts.append(self._pick(stream, unit.dim, [channels])[0])
        gate = self._made[node] = SettledGate(self._gates[unit.name], demand)
        rows = self._call(f"{unit.name}_gate", gate, *parts)
        return _Value([None] * len(computed), _Rows(rows, demand.starts[-1], demand.views, unit.dim))

    def _by_streams(self, node: fx.Node) -> list[fx.Node | None]:
        """As `lift` does it, for the streams that are read."""
        read = self._reads[node]
        inputs = {n: self._streams(n, read) for n in node.all_input_nodes}
        made: list[fx.Node | None] = [None] * len(read)
        names = list(self._branches)
        own = owns_state(self._branches[names[0]], node)  # what streams have in common is in the first branch alone
        for index in np.flatnonzero(read):
            arguments = {n: streams[index] for n, streams in inputs.items()}
            made[index] = self._copy(node, names[index if own else 0], arguments)
        return made

    def _by_rows(self, node: fx.Node) -> _Value | None:
        """What works channel by channel, on rows; None where it does not, or where that would be more work."""
        inputs = node.all_input_nodes
        rows = [found for n in inputs if (found := self._values[n].rows)]
        name, branch = next(iter(self._branches.items()))
        missing = len(rows) < len(inputs)
        if not inputs or missing or not works_by_channel(branch, node, {r.dim for r in rows}):
            return None
        read, nothing = self._reads[node], [None] * len(self._branches)
        views = np.stack([np.where(read[:, None], r.views, -1) for r in rows])
        if len(inputs) == 1:
            made = self._copy(node, name, {inputs[0]: rows[0].node})
            return _Value(list(nothing), _Rows(made, rows[0].count, views[0], rows[0].dim))
        distinct, inverse = np.unique(views[:, read].reshape(len(views), -1), axis=1, return_inverse=True)
        whole = len(np.unique(views[:, read].transpose(1, 0, 2).reshape(int(read.sum()), -1), axis=0))
        if distinct.shape[1] > _DISTINCT * whole * views.shape[2]:
            return None
        arguments = {
            n: self._pick(r.node, r.dim, [picked], r.count)[0]
            for n, r, picked in zip(inputs, rows, distinct, strict=True)
        }
        joined = np.full(views.shape[1:], -1)
        joined[read] = inverse.reshape(joined[read].shape)
        made = self._copy(node, name, arguments)
        return _Value(list(nothing), _Rows(made, distinct.shape[1], joined, rows[0].dim))

    def _streams(self, node: fx.Node, wanted: Bools) -> list[fx.Node | None]:
        """The streams of a value that are wanted, and those that were already made."""
        value = self._values[node]
        missing = [s for s in np.flatnonzero(wanted) if value.streams[s] is None]
        if missing and value.rows is not None:
            rows = value.rows
            distinct, which = np.unique(rows.views[missing], axis=0, return_inverse=True)
            made = self._pick(rows.node, rows.dim, list(distinct), rows.count)
            for stream, index in zip(missing, which.ravel(), strict=True):
                value.streams[stream] = made[index]
        return value.streams

    def _copy(self, node: fx.Node, branch: str, inputs: Mapping[fx.Node, fx.Node | None]) -> fx.Node:
        """The node on other inputs; the same one for the same inputs."""
        key = (node, branch, *inputs.values())
        if key not in self._copies:
            made = self._graph.node_copy(node, inputs.__getitem__)
            if node.op in ("call_module", "get_attr"):
                made.target = f"branches.{branch}.{node.target}"
            self._copies[key] = made
        return self._copies[key]

    def _pick(self, source: fx.Node, dim: int, picks: list[Ids], count: int = -1) -> list[fx.Node]:
        """Tensors with some channels of another; itself for all of them in order."""
        if len(picks) == 1 and np.array_equal(picks[0], np.arange(count)):
            return [source]
        call = self._call("rows", ReadRows(dim, [self._index(pick) for pick in picks]), source)
        return [self._graph.call_function(take, (call, i)) for i in range(len(picks))]

    def _call(self, name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        made = self._root.get_submodule("made")
        name = f"{name}_{len(made._modules)}"
        made.add_module(name, module)
        return self._graph.call_module(f"made.{name}", inputs)

    def _index(self, channels: Ids) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(channels)).to(self._device)

    def _keep_gradients(self, network: fx.GraphModule) -> None:
        """Give what takes no part zero gradients, through the first gate that heads read anything of."""
        used = {id(p) for p in network.parameters()}
        everything = {id(p): p for box in (self._branches, self._gates) for m in box.values() for p in m.parameters()}
        read: set[fx.Node] = set()
        for node in reversed(self._program.graph.nodes):
            if node.op == "output" or node in read:
                read.update(node.all_input_nodes)
        if first := next((gate for node, gate in self._made.items() if node in read), None):
            first.unused.extend(p for key, p in everything.items() if key not in used and p.requires_grad)
