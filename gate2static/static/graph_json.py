"""The static network on disk: its graph as plain JSON, read without running anything that the file says.

A graph file can name operators of torch's `aten` set that compute values and change nothing, and arithmetic on sizes:
every name is looked up in those sets, every argument is a number, a string, a list, an enumeration by name or a
reference to an earlier node, and node names are generated on loading, so no text of the file ever becomes code.
"""

import keyword
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
_REFUSED_OPERATORS = re.compile(
    "^_|from_file|empty|sparse|quantize|fake_quant|nested|as_strided|unsafe|resize|set_|data_ptr|coo|csr"
)
"""Internal operators, and those that read files, expose unset memory, or trust indices without checking them."""
_INTERNAL_OPERATORS = {
    "_to_copy", "_unsafe_view", "_softmax", "_log_softmax", "_adaptive_avg_pool2d", "_native_multi_head_attention",
    "_weight_norm", "_weight_norm_interface",
    "_transformer_encoder_layer_fwd", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
}  # fmt: skip
_DEEPEST = 8


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
    if [node.op for node in made].count("output") != 1 or made[-1].op != "output":
        raise ArtefactError("the graph is not one of ours: it does not end with its one output.")
    return fx.GraphModule(root, graph, "StaticNetwork")


def _build(graph: fx.Graph, entry: dict[str, Any], made: list[fx.Node], weights: Mapping[str, Tensor]) -> fx.Node:
    kind, target = entry["op"], entry["target"]
    args, kwargs = _decode(entry["args"], made), {str(k): _decode(v, made) for k, v in entry["kwargs"].items()}
    if kind == "placeholder":
        _check_input_name(target, made)
        return graph.placeholder(target)
    if kind == "get_attr":
        if target not in weights:
            raise KeyError(f"no weight {target!r}")
        return graph.get_attr(target)
    if kind == "call_function":
        function = _operator(target)
        if kwargs:
            _check_argument_names(function, kwargs)
        return graph.create_node("call_function", function, tuple(args), kwargs, name=f"n{len(made)}")
    if kind == "output":
        if not all(isinstance(a, fx.Node) for a in args[0]):
            raise ValueError("an output that is no node")
        result: fx.Node = graph.output(tuple(args[0]))
        return result
    raise ValueError(f"unknown kind of node {kind!r}")


def _check_input_name(name: Any, made: list[fx.Node]) -> None:
    """Inputs become parameters of a generated function, where a few names already mean something."""
    taken = {"self", "operator", *fx.graph._custom_builtins, *(n.target for n in made if n.op == "placeholder")}
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in taken:
        raise ValueError(f"input name {name!r}")


def _check_argument_names(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    known = {a.name for a in function._schema.arguments} if isinstance(function, torch._ops.OpOverload) else set()
    if unknown := set(kwargs) - known:
        raise ValueError(f"argument names {sorted(unknown)}")


def _decode(value: Any, made: list[fx.Node], depth: int = 0) -> Any:
    if isinstance(value, list):
        if depth > _DEEPEST:
            raise ValueError("arguments nested too deep")
        return [_decode(v, made, depth + 1) for v in value]
    if not isinstance(value, dict):
        return value
    ((key, content),) = value.items()
    if key == "node":
        return made[content if type(content) is int and content >= 0 else len(made)]
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
    if match is None or (match[1] not in _INTERNAL_OPERATORS and _REFUSED_OPERATORS.search(match[1])):
        raise ValueError(f"operator {name!r} is not allowed")
    packet = getattr(torch.ops.aten, match[1])
    overload = getattr(packet, match[2])
    if not isinstance(overload, torch._ops.OpOverload) or not _only_computes(overload):
        raise ValueError(f"operator {name!r} is not allowed")
    return overload


def _only_computes(overload: torch._ops.OpOverload) -> bool:
    """Whether an operator returns something and changes nothing.

    Outside the dispatcher lie the actions of TorchScript's interpreter, such as `aten.save` and `aten.warn`.
    """
    known = torch._C._dispatch_has_kernel(overload.name())
    return known and bool(overload._schema.returns) and not overload._schema.is_mutable


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
