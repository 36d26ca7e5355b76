"""What the nodes of a gated model's program refer to."""

from typing import Any

from torch import fx, nn

from gate2static.gates.lift import owns_state
from gate2static.gates.model import GatedModel
from gate2static.program.annotate import info
from gate2static.program.operators import function_name as function_name


def module_of(gated: GatedModel, node: fx.Node, stream: int) -> nn.Module | None:
    """The module a node calls for its stream number `stream`; None for other nodes."""
    return owner_of(gated, node, stream).get_submodule(str(node.target)) if node.op == "call_module" else None


def owner_of(gated: GatedModel, node: fx.Node, stream: int) -> nn.Module:
    """The module that the names in `node` are relative to."""
    if len(info(node).streams) == 1:
        return gated
    return list(gated.branches.values())[stream]


def has_state(gated: GatedModel, node: fx.Node) -> bool:
    """Whether each stream has its own parameters for the node."""
    return owns_state(owner_of(gated, node, 0), node)


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """The node's inputs that are tensors."""
    return [n for n in node.all_input_nodes if info(n).shape is not None]


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, whether it was given by position or by name; `self` or the input is position 0.

    Nodes whose value is a known constant, such as a read of a size, are replaced by it.
    """
    value = node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
    return fx.map_arg(value, lambda n: n if info(n).constant is None else info(n).constant)
