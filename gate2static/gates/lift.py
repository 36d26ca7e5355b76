"""Lifts a program's backbone to the graph of T+1 streams that trains.

Every value becomes T+1 streams. Nodes that own parameters run once per stream, on that stream's copy. All others run
once per distinct input, so streams that are still one value cost one computation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from gate2static.program.program import Program
from gate2static.program.units import gated_unit
from gate2static.program.units import owns_state as owns_state

_Streams = list[fx.Node]
"""The nodes of a value, one per stream."""


def lift(program: Program, branches: Mapping[str, nn.Module], gates: Mapping[str, nn.Module]) -> fx.GraphModule:
    """Builds the lifted network.

    Args:
        program: The program of the backbone.
        branches: Stream -> its copy of the backbone, the shared stream last.
        gates: Unit -> its gate.

    Returns:
        A module with `branches.<stream>` and `gates.<unit>` below it. Its inputs are the backbone's, and its output is
        a tuple over tasks of the backbone's output structure. It has only the modules and parameters that the graph
        uses.
    """
    # fx.GraphModule takes only the modules of this one that the graph calls.
    root = nn.Module()
    root.branches = named_modules(branches)
    root.gates = named_modules(gates)
    graph = fx.Graph()
    streams_of: dict[fx.Node, _Streams] = {}
    segment: list[fx.Node] = []
    for node in program.backbone():
        if node.target is not gated_unit:
            segment.append(node)
            continue
        _lift_segment(graph, segment, streams_of, branches)
        segment.clear()
        inputs = streams_of[node.all_input_nodes[0]]
        outputs = graph.call_module(f"gates.{node.args[1]}", tuple(inputs))
        streams_of[node] = [graph.call_function(take, (outputs, stream)) for stream in range(len(branches))]
    _lift_segment(graph, segment, streams_of, branches)
    # Heads read the tasks' streams; the shared one is read by gates alone.
    features = []
    for stream in range(len(branches) - 1):
        of_stream = {node: streams[stream] for node, streams in streams_of.items()}
        features.append(fx.map_arg(program.features, of_stream.__getitem__))
    graph.output(tuple(features))
    graph.lint()
    return fx.GraphModule(root, graph, "Lifted")


def named_modules(modules: Mapping[str, nn.Module]) -> nn.Module:
    """Returns a module with these modules below it.

    Unlike a ModuleDict it takes names such as `keys`, which layers of attention have.
    """
    parent = nn.Module()
    for name, module in modules.items():
        parent.add_module(name, module)
    return parent


def take(values: Any, index: int) -> Any:
    """Returns one of several outputs; nodes call it to read one stream of a gate.

    Args:
        values: The outputs.
        index: The number of the output.
    """
    return values[index]


def _lift_segment(
    graph: fx.Graph, segment: Sequence[fx.Node], streams_of: dict[fx.Node, _Streams], branches: Mapping[str, nn.Module]
) -> None:
    """Lifts the nodes between two gates.

    Args:
        graph: The lifted graph; nodes are added to it.
        segment: The nodes between two gates, in data-flow order.
        streams_of: Node of the program -> its lifted nodes; those of the segment are added.
        branches: Stream -> its copy of the backbone.
    """
    copies: dict[Any, fx.Node] = {}
    for node in segment:
        streams_of[node] = []
    # One stream after another, so that a stream's values are still in the cache: lifting costs memory traffic.
    for stream, (name, branch) in enumerate(branches.items()):
        for node in segment:
            # Streams that are still one value cost one computation.
            owner = stream if owns_state(branch, node) else 0
            inputs = {n: streams_of[n][stream] for n in node.all_input_nodes}
            key = (node, owner, *inputs.values())
            if key not in copies:
                copies[key] = graph.node_copy(node, inputs.__getitem__)
                if node.op in ("call_module", "get_attr"):
                    copies[key].target = f"branches.{name}.{node.target}"
            streams_of[node].append(copies[key])
