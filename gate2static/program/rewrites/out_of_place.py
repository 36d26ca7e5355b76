"""Makes a traced graph free of in-place writes, and functional dropout a layer.

Streams share values and pruning shares channels, so a node must never change what another node reads. Every in-place
operation becomes its out-of-place form, and whoever read the written tensor later reads the result instead.
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


def functionalise(
    root: nn.Module,
    graph: fx.Graph,
    *,
    layers: bool = True,
    shape_of: Callable[[Any], tuple[int, ...] | None] = lambda _: None,
) -> None:
    """Rewrite `graph` in place so that no node writes into its inputs; `root`'s layers are switched accordingly.

    Args:
        root: owner of the modules that `graph` calls.
        graph: what to rewrite.
        layers: whether functional dropout becomes a layer of `root`.
        shape_of: the shape of a node's value, where it is known to be a tensor.

    Raises:
        TraceError: an in-place method that has no out-of-place form.
    """
    for node in list(graph.nodes):
        if layers and node.op == "call_function" and node.target in _DROPOUTS:
            _make_dropout_layer(root, node)
        if _make_out_of_place(root, node):
            written = node.args[0] if node.args else next(iter(node.kwargs.values()))
            written.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user > node)
            _write_through(graph, written, node, shape_of)
    clear_inplace_flags(root)


def clear_inplace_flags(root: nn.Module) -> None:
    """Switch off the flag of layers that would write into their inputs."""
    for module in root.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # a flag, no tensor


def set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """`tensor[index] = value` on a copy."""
    out = tensor.clone()
    out[index] = value
    return out


def _write_through(
    graph: fx.Graph, view: fx.Node, result: fx.Node, shape_of: Callable[[Any], tuple[int, ...] | None]
) -> None:
    """Where items of a tensor were written, whoever reads that tensor later reads it with the new items."""
    while view.target is operator.getitem and shape_of(view.args[0]) is not None:
        base: Any = view.args[0]
        index = view.args[1]
        with graph.inserting_after(result):
            result = graph.call_function(set_item, (base, index, result))
        base.replace_all_uses_with(result, delete_user_cb=lambda user, made=result: user > made)
        view = base


def _make_out_of_place(root: nn.Module, node: fx.Node) -> bool:
    """Replace an in-place operation by its out-of-place form; tell whether the node was one."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        if not name.endswith("_") or name.endswith("__"):
            return False
        if name == "zero_":
            node.op, node.target = "call_function", torch.zeros_like
            return True
        if not callable(getattr(Tensor, name[:-1], None)):
            raise TraceError(f"the method {name} writes in place and has no out-of-place form; rewrite that line.")
        node.target = name[:-1]
        return True
    if node.op != "call_function":
        return False
    if node.target is operator.setitem:
        node.target = set_item
        return True
    if node.target in _IN_PLACE_OPERATORS:
        node.target = _IN_PLACE_OPERATORS[node.target]
        return True
    name = getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__") and getattr(torch, name, None) is node.target:
        node.target = getattr(torch, name[:-1])
        return True
    return _clear_inplace_flag(node)


def _clear_inplace_flag(node: fx.Node) -> bool:
    try:
        call = inspect.signature(function_of(node)).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # torch's built-in functions have no signature, and no such flag
        return False
    if call.arguments.get("inplace") is not True:
        return False
    call.arguments["inplace"] = False
    node.args, node.kwargs = call.args, call.kwargs
    return True


def _make_dropout_layer(root: nn.Module, node: fx.Node) -> None:
    p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
    name = f"{node.name}_layer"
    root.add_module(name, _DROPOUTS[node.target](p))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (node.args[0],), {}
