"""The static network's graph as plain JSON, which is read without running anything that the file says.

A file is a list of nodes. A stranger's file stays harmless because

1. every operator is one of those that are allowed (`operator_table`),
2. every argument is a number, a word, a list, an enumeration by name, or a reference to an earlier node, and of the
   type that torch's schema of the operator says (`argument_schema`),
3. node names are generated on loading, and inputs' names are checked, so no text of the file ever becomes code,
4. nodes, inputs and outputs are few enough to be looked at in seconds; what they compute is bounded by `graph_bounds`.
"""

import keyword
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.errors import ArtefactError, PruneError
from gate2static.messages import brief
from gate2static.static.vetting.allowed_operators import allowed_operator, target_name
from gate2static.static.vetting.argument_schema import check_arguments

_ENUMERATIONS: Mapping[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
"""Key in the file -> type of the enumeration; its members are attributes of torch."""
_FLOATS = ("nan", "inf", "-inf")
_DEEPEST = 4
"""Lists in lists that arguments may have."""
MOST_NODES = 50_000
MOST_INPUTS = 256
MOST_OUTPUTS = 4_096


def graph_to_dict(graph: fx.Graph) -> list[dict[str, Any]]:
    """Encodes a graph.

    Args:
        graph: The graph of a captured network.

    Returns:
        The nodes, in order; references are positions in this list.

    Raises:
        PruneError: An operator or argument that the format cannot hold.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    entries = []
    for node in graph.nodes:
        entries.append(
            {
                "op": node.op,
                "target": target_name(node),
                "args": _encode(node.args, position),
                "kwargs": {name: _encode(value, position) for name, value in node.kwargs.items()},
            }
        )
    return entries


def graph_from_dict(nodes: Any, weights: Mapping[str, Tensor]) -> fx.GraphModule:
    """Rebuilds a network.

    Args:
        nodes: The result of `graph_to_dict`, from a file that need not be trusted.
        weights: Name -> tensor.

    Raises:
        ArtefactError: Anything that is not a graph of known operators.
    """
    if not isinstance(nodes, list) or len(nodes) > MOST_NODES:
        found = f"{len(nodes):,} nodes" if isinstance(nodes, list) else f"a {type(nodes).__name__}"
        raise ArtefactError(f"the graph is not one of ours: it is {found}, not a list of up to {MOST_NODES:,} nodes.")
    _check_count(nodes, "placeholder", MOST_INPUTS)
    root = nn.Module()
    for name, value in weights.items():
        _register(root, name, value)
    graph = fx.Graph()
    built: list[fx.Node] = []
    # A wrong file fails somewhere below, in one of these ways.
    try:
        for entry in nodes:
            built.append(_build(graph, entry, built, weights))
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, RuntimeError) as error:
        where = f"node {len(built)} cannot be read"
        raise ArtefactError(f"the graph is not one of ours: {where} ({brief(error)}).") from error
    kinds = [node.op for node in built]
    if kinds.count("output") != 1 or kinds[-1] != "output":
        raise ArtefactError("the graph is not one of ours: it does not end with its one output.")
    return fx.GraphModule(root, graph, "StaticNetwork")


def _encode(value: Any, position: Mapping[fx.Node, int]) -> Any:
    """Encodes an argument.

    Args:
        value: The argument.
        position: Node -> its position in the file.

    Raises:
        PruneError: An argument that the format cannot hold.
    """
    if isinstance(value, fx.Node):
        return {"node": position[value]}
    if isinstance(value, list | tuple):
        return [_encode(element, position) for element in value]
    # JSON has no infinity and no NaN.
    if isinstance(value, float) and not isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.device):
        return {"device": value.type}
    for key, kind in _ENUMERATIONS.items():
        if isinstance(value, kind):
            return {key: str(value).removeprefix("torch.")}
    raise PruneError(f"the static network holds an argument of type {type(value).__name__}, which cannot be saved.")


def _decode(value: Any, built: Sequence[fx.Node], depth: int = 0) -> Any:
    """Decodes an argument of a file that need not be trusted.

    Args:
        value: The argument as JSON.
        built: The nodes before, by their positions.
        depth: The number of lists around the argument.

    Raises:
        ValueError: An unknown member of an enumeration, or lists that are nested too deep.
        LookupError: An unknown key, or a reference that is no earlier node.
    """
    if isinstance(value, list):
        if depth > _DEEPEST:
            raise ValueError("arguments nested too deep")
        return [_decode(element, built, depth + 1) for element in value]
    if not isinstance(value, dict):
        return value
    ((key, content),) = value.items()
    if key == "node":
        # Neither from the end, as -1 would count, nor by a bool; both are out of range.
        is_position = type(content) is int and content >= 0
        return built[content if is_position else len(built)]
    if key == "float":
        if content not in _FLOATS:
            raise ValueError(f"{content!r} is no float")
        return float(content)
    if key == "device":
        return torch.device("cpu")  # wherever it was saved
    kind = _ENUMERATIONS[key]
    member = getattr(torch, content)
    if not isinstance(member, kind):
        raise ValueError(f"{content!r} is no {key}")
    return member


def _build(
    graph: fx.Graph,
    entry: dict[str, Any],
    built: Sequence[fx.Node],
    weights: Mapping[str, Tensor],
) -> fx.Node:
    """Appends one node of a file that need not be trusted.

    Args:
        graph: The graph, which gets the node.
        entry: The node as JSON.
        built: The nodes before, by their positions.
        weights: Name -> tensor.

    Raises:
        LookupError: An unknown weight, or something missing.
        ValueError: Anything else that is not allowed.
    """
    if not isinstance(entry, dict) or not isinstance(entry["args"], list) or not isinstance(entry["kwargs"], dict):
        raise TypeError("it is no operator with its arguments")
    kind = entry["op"]
    target = entry["target"]
    args = _decode(entry["args"], built)
    kwargs = {name: _decode(value, built) for name, value in entry["kwargs"].items()}
    if kind == "placeholder":
        _check_input_name(target, built)
        return graph.placeholder(target)
    if kind == "get_attr":
        if target not in weights:
            raise KeyError(f"no weight {target!r}")
        return graph.get_attr(target)
    if kind == "call_function":
        function = allowed_operator(target)
        check_arguments(function, args, kwargs)
        return graph.create_node("call_function", function, tuple(args), kwargs, name=f"n{len(built)}")
    if kind == "output":
        if len(args) != 1 or not isinstance(args[0], list) or len(args[0]) > MOST_OUTPUTS:
            raise ValueError(f"an output that is no list of up to {MOST_OUTPUTS:,} nodes")
        if not all(isinstance(output, fx.Node) for output in args[0]):
            raise ValueError("an output that is no node")
        result: fx.Node = graph.output(tuple(args[0]))
        return result
    raise ValueError(f"unknown kind of node {kind!r}")


def _check_count(nodes: Sequence[Any], kind: str, most: int) -> None:
    """Raises an ArtefactError where a file has too many nodes of a kind."""
    count = sum(isinstance(entry, dict) and entry.get("op") == kind for entry in nodes)
    if count > most:
        raise ArtefactError(f"the graph is not one of ours: it has {count:,} {kind}s, and {most} at the most.")


def _check_input_name(name: Any, built: Sequence[fx.Node]) -> None:
    """Refuses names that cannot be the parameter of a generated function, where a few names already mean something.

    Args:
        name: The name of an input.
        built: The nodes before.

    Raises:
        ValueError: The name is no identifier, or it is taken.
    """
    other_inputs = [node.target for node in built if node.op == "placeholder"]
    taken = {"self", "operator", *fx.graph._custom_builtins, *other_inputs}
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in taken:
        raise ValueError(f"input name {name!r}")


def _register(root: nn.Module, name: str, value: Tensor) -> None:
    """Keeps a tensor of the weights file on a module.

    Raises:
        ArtefactError: A name that `capture.store` does not give.
    """
    if not re.fullmatch(r"(parameter|buffer)_\d+", name):
        raise ArtefactError(f"the weights file holds a tensor named {name!r}; allowed are parameter_N and buffer_N.")
    if name.startswith("parameter"):
        root.register_parameter(name, nn.Parameter(value, requires_grad=False))
    else:
        root.register_buffer(name, value)
