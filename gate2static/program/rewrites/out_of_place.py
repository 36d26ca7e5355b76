"""Makes a traced graph free of in-place writes.

Streams share values and pruning shares channels, so a node must never change what another node reads. Every in-place
operation becomes its out-of-place form, and the nodes that read the written tensor later read the result instead.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from gate2static.errors import TraceError
from gate2static.graphs import function_of, module_around

_IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_SAME_MEMORY = frozenset({"detach", "view", "view_as", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "t"})
"""Methods whose result shares the memory of the tensor, as `x.data` does."""

ShapeOf = Callable[[Any], tuple[int, ...] | None]
"""A node -> the shape of its value, or None where it is not known to be a tensor."""


_FILLS = frozenset({
    "uniform_", "normal_", "log_normal_", "exponential_", "cauchy_", "geometric_", "random_", "copy_",
})  # fmt: skip
"""Methods that write over a whole tensor, most of them random numbers, and that have no out-of-place form."""


class StoredWriteError(TraceError):
    """A forward that writes into a parameter or buffer, which a graph without in-place writes cannot.

    Args:
        name: The name of the parameter or buffer.
        module: The submodule whose forward seems to write.

    Attributes:
        fix: What to do about it.
    """

    fix = "Write only where self.training is set, in a submodule of its own, which then stays whole."

    def __init__(self, name: str, module: str) -> None:
        super().__init__(f"its forward writes into {name!r}")
        self.module = module


def functionalise(root: nn.Module, graph: fx.Graph, *, shape_of: ShapeOf = lambda _: None) -> None:
    """Rewrites a graph so that no node writes into its inputs.

    Args:
        root: The owner of the modules that the graph calls; the modules are switched out of place.
        graph: The graph, rewritten in place.
        shape_of: Returns the shape of a node's value, or None where it is not known to be a tensor.

    Raises:
        StoredWriteError: The graph writes into a parameter or buffer.
        TraceError: The graph has an in-place method that has no out-of-place form.
    """
    for node in list(graph.nodes):
        if _make_out_of_place(root, node):
            written = node.args[0] if node.args else next(iter(node.kwargs.values()))
            _refuse_stored(written, node)
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


def filled(tensor: Tensor, method: str, *args: Any, **kwargs: Any) -> Tensor:
    """Returns a new tensor that a method has written over.

    Args:
        tensor: A tensor of the same shape, dtype and device.
        method: The name of the method of a tensor that writes.
        args: The positional arguments of that method.
        kwargs: The named arguments of that method.
    """
    numbers: Tensor = getattr(torch.empty_like(tensor), method)(*args, **kwargs)
    return numbers


def _refuse_stored(written: Any, node: fx.Node) -> None:
    """Refuses that a node writes into what is a stored tensor or shares its memory."""
    while isinstance(written, fx.Node) and written.op != "get_attr":
        is_view = written.target in (operator.getitem, getattr) or str(written.target) in _SAME_MEMORY
        if not is_view:
            return
        written = written.args[0]
    if isinstance(written, fx.Node) and not str(written.target).startswith("_tensor_constant"):
        raise StoredWriteError(str(written.target), module_around(node))


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
    # What a stored tensor calls when it is given a proxy.
    if name == "__setitem__":
        node.op = "call_function"
        node.target = set_item
        return True
    if not _is_in_place(name):
        return False
    # `x.zero()` does not exist.
    if name == "zero_":
        node.op = "call_function"
        node.target = torch.zeros_like
        return True
    if name in _FILLS:
        node.op = "call_function"
        node.target = filled
        node.args = (node.args[0], name, *node.args[1:])
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
