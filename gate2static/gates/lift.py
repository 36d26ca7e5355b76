"""The lift: a program's backbone -> the graph of T+1 streams that trains.

Every value becomes T+1 streams. Nodes that own parameters run once per stream, on that stream's copy; all others run
once per distinct input, so that streams that are still one value cost one computation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from gate2static.program.program import Program
from gate2static.program.units import gated_unit
from gate2static.program.units import owns_state as owns_state

_Streams = list[fx.Node]


def lift(program: Program, branches: Mapping[str, nn.Module], gates: Mapping[str, nn.Module]) -> fx.GraphModule:
    """Build the lifted network.

    Args:
        program: what to compute.
        branches: stream name -> copy of the backbone; the shared stream last.
        gates: unit name -> its gate.

    Returns:
        A module with `branches.<stream>` and `gates.<unit>` below it; inputs are the backbone's, the output is a tuple
        over tasks of the backbone's output structure. Only modules and parameters that the graph uses are kept.
    """
    root = nn.Module()
    root.branches, root.gates = named_modules(branches), named_modules(gates)
    names = list(branches)
    graph = fx.Graph()
    env: dict[fx.Node, _Streams] = {}
    segment: list[fx.Node] = []
    for node in program.backbone():
        if node.target is gated_unit:
            _lift_segment(graph, segment, env, branches)
            segment.clear()
            outputs = graph.call_module(f"gates.{node.args[1]}", tuple(env[node.all_input_nodes[0]]))
            env[node] = [graph.call_function(take, (outputs, i)) for i in range(len(names))]
        else:
            segment.append(node)
    _lift_segment(graph, segment, env, branches)
    features = []
    for stream in range(len(names) - 1):
        features.append(fx.map_arg(program.features, {node: nodes[stream] for node, nodes in env.items()}.__getitem__))
    graph.output(tuple(features))
    graph.lint()
    return fx.GraphModule(root, graph, "Lifted")


def named_modules(modules: Mapping[str, nn.Module]) -> nn.Module:
    """A module with these below it; unlike a ModuleDict it takes names such as `keys`, which attention layers have."""
    box = nn.Module()
    for name, module in modules.items():
        box.add_module(name, module)
    return box


def take(values: Any, index: int) -> Any:
    """One of several outputs."""
    return values[index]


def _lift_segment(
    graph: fx.Graph, nodes: Sequence[fx.Node], env: dict[fx.Node, _Streams], branches: Mapping[str, nn.Module]
) -> None:
    """Lift what lies between two gates, one stream after another, so that a stream's values are still in the cache."""
    made: dict[Any, fx.Node] = {}
    for node in nodes:
        env[node] = []
    for index, (name, branch) in enumerate(branches.items()):
        for node in nodes:
            owner = index if owns_state(branch, node) else 0
            inputs = {n: env[n][index] for n in node.all_input_nodes}
            key = (node, owner, *inputs.values())
            if key not in made:
                made[key] = graph.node_copy(node, inputs.__getitem__)
                if node.op in ("call_module", "get_attr"):
                    made[key].target = f"branches.{name}.{node.target}"
            env[node].append(made[key])
