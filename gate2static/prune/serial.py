"""The static network on disk: its graph as plain JSON, read without running anything that the file says.

A graph file can name operators of torch's `aten` set and arithmetic on sizes, nothing else: every name is looked up in
those sets, every argument is a number, a string, a list, an enumeration by name or a reference to an earlier node, and
node names are generated on loading, so no text of the file ever becomes code.
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.errors import ArtefactError, PruneError

_SIZE_ARITHMETIC: dict[str, Callable[..., Any]] = {
    f"operator.{f.__name__}": f
    for f in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.getitem)
}
_ENUMERATIONS: tuple[tuple[str, type], ...] = (
    ("dtype", torch.dtype),
    ("layout", torch.layout),
    ("memory_format", torch.memory_format),
)
_REFUSED_OPERATORS = {"from_file"}


def graph_to_dict(graph: fx.Graph) -> list[dict[str, Any]]:
    """Nodes in order; references are positions in this list.

    Raises:
        PruneError: an operator or argument that the format cannot hold.
    """
    number = {node: position for position, node in enumerate(graph.nodes)}

    def encode(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return {"node": number[value]}
        if isinstance(value, list | tuple):
            return [encode(v) for v in value]
        if value is None or isinstance(value, bool | int | float | str):
            return {"float": str(value)} if isinstance(value, float) and not _is_finite(value) else value
        if isinstance(value, torch.device):
            return {"device": value.type}
        for name, kind in _ENUMERATIONS:
            if isinstance(value, kind):
                return {name: str(value).removeprefix("torch.")}
        raise PruneError(f"the static network holds an argument of type {type(value).__name__}, which cannot be saved.")

    return [
        {
            "op": node.op,
            "target": _target_name(node),
            "args": encode(node.args),
            "kwargs": {k: encode(v) for k, v in node.kwargs.items()},
        }
        for node in graph.nodes
    ]


def graph_from_dict(nodes: Any, weights: Mapping[str, Tensor]) -> fx.GraphModule:
    """Rebuild a network.

    Args:
        nodes: what `graph_to_dict` made, from a file that need not be trusted.
        weights: name -> tensor.

    Raises:
        ArtefactError: anything that is not a graph of known operators.
    """
    root, graph = nn.Module(), fx.Graph()
    made: list[fx.Node] = []
    for name, value in weights.items():
        _register(root, name, value)
    try:
        for entry in nodes:
            made.append(_build(graph, entry, made, weights))
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, RuntimeError) as error:
        raise ArtefactError(
            f"the graph is not one of ours: node {len(made)} cannot be read ({type(error).__name__}: {error})."
        ) from error
    if not made or made[-1].op != "output":
        raise ArtefactError("the graph is not one of ours: it has no output.")
    return fx.GraphModule(root, graph, "StaticNetwork")


def _build(graph: fx.Graph, entry: dict[str, Any], made: list[fx.Node], weights: Mapping[str, Tensor]) -> fx.Node:
    kind, target = entry["op"], entry["target"]
    args, kwargs = _decode(entry["args"], made), {str(k): _decode(v, made) for k, v in entry["kwargs"].items()}
    if not all(k.isidentifier() for k in kwargs):
        raise ValueError(f"argument names {list(kwargs)}")
    if kind == "placeholder":
        if not str(target).isidentifier():
            raise ValueError(f"input name {target!r}")
        return graph.placeholder(target)
    if kind == "get_attr":
        if target not in weights:
            raise KeyError(f"no weight {target!r}")
        return graph.get_attr(target)
    if kind == "call_function":
        return graph.create_node("call_function", _operator(target), tuple(args), kwargs, name=f"n{len(made)}")
    if kind == "output":
        if not all(isinstance(a, fx.Node) for a in args[0]):
            raise ValueError("an output that is no node")
        result: fx.Node = graph.output(tuple(args[0]))
        return result
    raise ValueError(f"unknown kind of node {kind!r}")


def _decode(value: Any, made: list[fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(v, made) for v in value]
    if not isinstance(value, dict):
        return value
    ((key, content),) = value.items()
    if key == "node":
        return made[content if isinstance(content, int) and content >= 0 else len(made)]
    if key == "float":
        return float(content)
    if key == "device":
        return torch.device("cpu")
    kind = dict(_ENUMERATIONS)[key]
    found = getattr(torch, content)
    if not isinstance(found, kind):
        raise ValueError(f"{content!r} is no {key}")
    return found


def _operator(name: str) -> Callable[..., Any]:
    if name in _SIZE_ARITHMETIC:
        return _SIZE_ARITHMETIC[name]
    match = re.fullmatch(r"aten\.(\w+)\.(\w+)", name)
    if match is None or match[1] in _REFUSED_OPERATORS:
        raise ValueError(f"operator {name!r} is not allowed")
    packet = getattr(torch.ops.aten, match[1])
    overload = getattr(packet, match[2])
    if not isinstance(overload, torch._ops.OpOverload):
        raise ValueError(f"operator {name!r} is not allowed")
    return overload


def _target_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        name = str(node.target)
        try:
            _operator(name)
        except (ValueError, AttributeError) as error:
            raise PruneError(f"the static network uses the operator {name}, which cannot be saved safely.") from error
        return name
    name = f"operator.{getattr(node.target, '__name__', '')}"
    if name not in _SIZE_ARITHMETIC:
        raise PruneError(f"the static network uses {node.target}, which cannot be saved safely.")
    return name


def _register(root: nn.Module, name: str, value: Tensor) -> None:
    if not re.fullmatch(r"(parameter|buffer)_\d+", name):
        raise ArtefactError(f"the weights file holds a tensor named {name!r}; allowed are parameter_N and buffer_N.")
    if name.startswith("parameter"):
        root.register_parameter(name, nn.Parameter(value, requires_grad=False))
    else:
        root.register_buffer(name, value)


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
