"""Makes a traced graph free of in-place writes, and turns functional dropout into a layer.

Streams share values and pruning shares channels, so a node must never change what another node reads. Every in-place
operation becomes its out-of-place form, and the nodes that read the written tensor later read the result instead.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.graphs import function_of

_IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
}

ShapeOf = Callable[[Any], tuple[int, ...] | None]
"""A node -> the shape of its value, or None where it is not known to be a tensor."""


def functionalise(root: nn.Module, graph: fx.Graph, *, layers: bool = True, shape_of: ShapeOf = lambda _: None) -> None:
    """Rewrites a graph so that no node writes into its inputs.

    Args:
        root: The owner of the modules that the graph calls; the modules are switched out of place.
        graph: The graph, rewritten in place.
        layers: Whether functional dropout becomes a layer of `root`.
        shape_of: Returns the shape of a node's value, or None where it is not known to be a tensor.

    Raises:
        TraceError: The graph has an in-place method that has no out-of-place form.
    """
    for node in list(graph.nodes):
        if layers and node.op == "call_function" and node.target in _DROPOUTS:
            _make_dropout_layer(root, node)
        if _make_out_of_place(root, node):
            written = node.args[0] if node.args else next(iter(node.kwargs.values()))
            _read_instead(written, node)
            _write_through(graph, written, node, shape_of)
    clear_inplace_flags(root)


def clear_inplace_flags(root: nn.Module) -> None:
    """Switches off the flag of layers that would write into their inputs."""
    for module in root.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # a flag, no tensor


def set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """Returns a copy of a tensor with `tensor[index] = value`."""
    out = tensor.clone()
    out[index] = value
    return out


def _read_instead(written: fx.Node, result: fx.Node) -> None:
    """Lets the nodes after a write read its result.

    Args:
        written: The tensor that was written into. The nodes before `result` still read it.
        result: The out-of-place form of the write.
    """
    written.replace_all_uses_with(result, delete_user_cb=lambda user: user > result)


def _write_through(graph: fx.Graph, view: fx.Node, result: fx.Node, shape_of: ShapeOf) -> None:
    """Lets the nodes that later read a tensor whose items were written read it with the new items.

    Args:
        graph: The graph, rewritten in place.
        view: What was written into. It may be `x[i]`, which shares its memory with `x`, which may itself be `y[j]`.
        result: The new value of `view`.
        shape_of: Returns the shape of a node's value, or None where it is not known to be a tensor.
    """
    # An item of a tuple shares no memory with it.
    while view.target is operator.getitem and shape_of(view.args[0]) is not None:
        base: Any = view.args[0]
        index = view.args[1]
        with graph.inserting_after(result):
            result = graph.call_function(set_item, (base, index, result))
        _read_instead(base, result)
        view = base


def _make_out_of_place(root: nn.Module, node: fx.Node) -> bool:
    """Replaces an in-place operation by its out-of-place form.

    Args:
        root: The owner of the modules that the graph calls.
        node: Any node; its target or arguments are changed.

    Returns:
        Whether the node wrote into its first argument.
    """
    # The flags of all layers are switched off at the end.
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return _make_method_out_of_place(node)
    if node.op != "call_function":
        return False
    if node.target is operator.setitem:
        node.target = set_item
        return True
    if node.target in _IN_PLACE_OPERATORS:
        node.target = _IN_PLACE_OPERATORS[node.target]
        return True
    # A function of torch that writes in place, such as `torch.relu_`.
    name = getattr(node.target, "__name__", "")
    if _is_in_place(name) and getattr(torch, name, None) is node.target:
        node.target = getattr(torch, name[:-1])
        return True
    return _clear_inplace_flag(node)


def _is_in_place(name: str) -> bool:
    """Returns whether a name has torch's mark of functions that write in place, and is none of Python's own."""
    return name.endswith("_") and not name.endswith("__")


def _make_method_out_of_place(node: fx.Node) -> bool:
    """Replaces an in-place method such as `x.add_(y)`, and returns whether the node called one.

    Raises:
        TraceError: The method has no out-of-place form.
    """
    name = str(node.target)
    if not _is_in_place(name):
        return False
    # `x.zero()` does not exist.
    if name == "zero_":
        node.op = "call_function"
        node.target = torch.zeros_like
        return True
    if not callable(getattr(Tensor, name[:-1], None)):
        raise TraceError(f"the method {name} writes in place and has no out-of-place form; rewrite that line.")
    node.target = name[:-1]
    return True


def _clear_inplace_flag(node: fx.Node) -> bool:
    """Removes `inplace=True` from the arguments of a call, and returns whether it was there."""
    try:
        call = inspect.signature(function_of(node)).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # torch's built-in functions have no signature, and no such flag
        return False
    if call.arguments.get("inplace") is not True:
        return False
    call.arguments["inplace"] = False
    node.args = call.args
    node.kwargs = call.kwargs
    return True


def _make_dropout_layer(root: nn.Module, node: fx.Node) -> None:
    """Turns a call of functional dropout, whose flag `training` the trace fixed, into a call of a layer."""
    # 0.5 is torch's default.
    p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
    name = f"{node.name}_layer"
    root.add_module(name, _DROPOUTS[node.target](p))
    node.op = "call_module"
    node.target = name
    node.args = (node.args[0],)
    node.kwargs = {}
