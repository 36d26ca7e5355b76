"""Nodes of a gated model's program: the modules that they call, their tensors and their arguments.

A node of the program stands for one call per stream; streams are numbered in the order of the branches.
"""

from typing import Any

from torch import fx, nn

from gate2static.gates.lift import owns_state
from gate2static.gates.model import GatedModel
from gate2static.program.annotate import info
from gate2static.program.operators import function_name as function_name


def module_of(gated: GatedModel, node: fx.Node, stream: int) -> nn.Module | None:
    """Returns the module that a node calls for one of its streams; None for nodes that call no module.

    Args:
        gated: The gated model.
        node: A node of its program.
        stream: The number of the stream among those of the node.
    """
    if node.op != "call_module":
        return None
    return owner_of(gated, node, stream).get_submodule(str(node.target))


def owner_of(gated: GatedModel, node: fx.Node, stream: int) -> nn.Module:
    """Returns the module that the names in a node are relative to.

    Args:
        gated: The gated model.
        node: A node of its program.
        stream: The number of the stream among those of the node.
    """
    # Heads have one stream, and stand in the gated model itself.
    if len(info(node).streams) == 1:
        return gated
    return list(gated.branches.values())[stream]


def has_state(gated: GatedModel, node: fx.Node) -> bool:
    """Returns whether each stream has its own parameters for a node.

    Args:
        gated: The gated model.
        node: A node of its program.
    """
    return owns_state(owner_of(gated, node, 0), node)


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Returns the inputs of a node that are tensors, each once."""
    return [source for source in node.all_input_nodes if info(source).shape is not None]


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Returns an argument of a call, whether it stands there by position or by name.

    Args:
        node: The call.
        position: The argument's position; `self` or the input is position 0.
        name: The argument's name.
        default: The value of an absent argument.

    Returns:
        The argument. Nodes whose value is a known constant, such as a read of a size, are replaced by it.
    """
    value = node.args[position] if len(node.args) > position else node.kwargs.get(name, default)

    def known(source: fx.Node) -> Any:
        constant = info(source).constant
        return source if constant is None else constant

    return fx.map_arg(value, known)
