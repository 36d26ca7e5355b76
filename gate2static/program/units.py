"""Gated units: where the program has gates.

1. A gate stands after every weight layer, with its bias and the norm that follows it. Activations, pooling and
   additions come after the gate and act on each stream.
2. A gate also stands wherever parameters would otherwise reach a head without passing any gate, as the last norm of
   DenseNet and of transformers does. Without a gate there, each task would keep a private copy of that norm whatever
   the other gates say, and a network whose gates are all shared would not be exactly one backbone. The paper says
   nothing about such norms (docs/paper.md, note 4).
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, fx, nn
from torch.nn import functional as F

from gate2static.program.annotate import info
from gate2static.program.layer_kinds import channel_dim
from gate2static.program.operators import ADDITIONS, FEATURES_LAST, WEIGHT_FUNCTIONS, WEIGHT_LAYERS, is_norm
from gate2static.program.tracing.tracer import is_users


def gated_unit(value: Tensor, unit: str) -> Tensor:
    """Marks the gate of a unit in a program; it is never called.

    Args:
        value: The output of the unit.
        unit: The name of the unit.
    """
    raise AssertionError(unit)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A gated unit: a weight layer with the norm that follows it, or a norm or scale that stands alone.

    A weight layer is any module with parameters that the trace kept whole, except norms and PReLU. Each tensor that it
    returns and that is used has a gate. A function such as `F.linear` is a weight layer too where its weight is
    computed from parameters. A parameter that is added to the layer's output is the layer's bias. Integers and tensors
    of fewer than two dimensions have no gate.

    Attributes:
        name: The name of the layer's node, such as `layer1_0_conv1`.
        channels: C, the number of channels of the unit's output.
        dim: The dimension of the output along which the channels lie. Where the class of a module says nothing about
            channels, it is 1 for outputs of four or five dimensions and the last dimension for all others.
    """

    name: str
    channels: int
    dim: int


@dataclass(frozen=True)
class _End:
    """The end of a unit: the name of the unit, and the channel dimension of its output."""

    name: str
    dim: int


def insert_gates(root: nn.Module, graph: fx.Graph) -> tuple[Unit, ...]:
    """Inserts a gate node after each unit of a graph.

    Args:
        root: The owner of the modules and parameters that the graph names.
        graph: An annotated graph, changed in place.

    Returns:
        The units in data-flow order.
    """
    ends: dict[fx.Node, _End] = {}
    # Case 1: weight layers.
    stored = _stored(root, graph, set())
    for node in graph.nodes:
        if not (_is_layer(_module(root, node)) or _has_stored_weight(node, stored)):
            continue
        for number, value in enumerate(_values(node)):
            end = _end(root, value, stored)
            # The first output is the unit with the layer's name; the others have names of their own.
            name = value.name if number else node.name
            ends[end] = _End(name, _channel_dim(root, end, node))
    # Case 2: parameters behind all gates so far.
    for node in _ungated(root, graph, set(ends)):
        ends[node] = _End(node.name, _channel_dim(root, node, node))
    in_order = [node for node in graph.nodes if node in ends]
    return tuple(_insert_gate(graph, node, ends[node]) for node in in_order)


def owns_state(root: nn.Module, node: fx.Node) -> bool:
    """Returns whether a node reads floating-point parameters or buffers, so that each stream has a copy of them.

    Args:
        root: The owner of the modules, parameters and buffers that the node's graph names.
        node: Any node of the graph.
    """
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(root)
        return isinstance(value, Tensor) and value.is_floating_point()
    module = _module(root, node)
    if module is None:
        return False
    return any(tensor.is_floating_point() for tensor in (*module.parameters(), *module.buffers()))


def _has_stored_weight(node: fx.Node, stored: set[fx.Node]) -> bool:
    """Returns whether a node calls a weight function, or a user's whole function, on stored parameters."""
    if node.target in WEIGHT_FUNCTIONS:
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        return weight in stored
    return is_users(node.target) and any(n in stored for n in node.all_input_nodes)


def _end(root: nn.Module, value: fx.Node, stored: set[fx.Node]) -> fx.Node:
    """Returns the node that ends a unit: the layer itself, the bias added to it, or the norm that follows.

    Args:
        root: The owner of the modules that the graph calls.
        value: The output of the unit's layer.
        stored: The nodes that hold parameters, or what is computed from parameters alone.
    """
    last = value
    user = _only_user(last)
    if user is not None and user.target in ADDITIONS and len(user.args) == 2:
        addend = next((n for n in user.args if n is not last), None)
        # A bias is broadcast to the layer's output; a larger tensor, such as a bank of tokens, changes its shape.
        if addend in stored and info(user).shape == info(last).shape:
            last = user
            user = _only_user(last)
    return user if user is not None and is_norm(_module(root, user)) else last


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _insert_gate(graph: fx.Graph, node: fx.Node, end: _End) -> Unit:
    """Inserts the gate after the node that ends a unit, and lets all users of that node read the gate instead."""
    with graph.inserting_after(node):
        gate = graph.call_function(gated_unit, (node, end.name))
    node.replace_all_uses_with(gate, delete_user_cb=lambda user: user is not gate)
    gate.meta["info"] = replace(info(node), macs=0)
    shape = info(node).shape or ()
    return Unit(name=end.name, channels=shape[end.dim], dim=end.dim)


def _is_layer(module: nn.Module | None) -> bool:
    """Returns whether a module is a weight layer, see `Unit`."""
    # PReLU is an activation: it comes after the gate, and the pruner cuts its slopes like channels.
    if module is None or is_norm(module) or isinstance(module, nn.PReLU):
        return False
    return any(parameter.is_floating_point() for parameter in module.parameters())


def _values(node: fx.Node) -> Iterator[fx.Node]:
    """Yields the feature maps that a layer returns: its value or, of a tuple or dict, the parts that are used."""
    if _is_features(node):
        yield node
    elif info(node).shape is None:
        for user in node.users:
            if user.target in (operator.getitem, getattr):
                yield from _values(user)


def _is_features(node: fx.Node) -> bool:
    """Returns whether a value has channels: whether it is a floating-point tensor of two or more dimensions."""
    dtype = info(node).dtype
    return dtype is not None and dtype.is_floating_point and len(info(node).shape or ()) > 1


def _channel_dim(root: nn.Module, end: fx.Node, layer: fx.Node) -> int:
    """Returns the channel dimension of a unit's output, see `Unit`.

    Args:
        root: The owner of the modules that the graph calls.
        end: The node that ends the unit.
        layer: The node of the unit's layer, or of the norm or scale that stands alone.
    """
    ndim = len(info(end).shape or ())
    module = _module(root, layer)
    if isinstance(module, WEIGHT_LAYERS) or is_norm(module):
        return channel_dim(module, ndim)
    if isinstance(module, nn.PReLU):
        return 1
    if layer.target in WEIGHT_FUNCTIONS:
        return ndim - 1 if layer.target is F.linear else 1
    if module is None:
        # A scale or a bias has one number per channel, so it says where the channels are.
        varying = {d for n in end.all_input_nodes for d in _varying_dims(n, ndim)}
        if len(varying) == 1:
            return varying.pop()
    # Images and volumes have their channels first; tokens and vectors have them last.
    return 1 if ndim in (4, 5) and not isinstance(module, FEATURES_LAST) else ndim - 1


def _varying_dims(node: fx.Node, ndim: int) -> list[int]:
    """Returns along which dimensions of a result a value without a batch is larger than 1.

    Args:
        node: An operand, whose dimensions are broadcast to the last ones of the result.
        ndim: The number of dimensions of the result.
    """
    shape = info(node).shape
    if shape is None or info(node).batch_dims:
        return []
    offset = ndim - len(shape)
    return [d + offset for d, size in enumerate(shape) if size > 1]


def _ungated(root: nn.Module, graph: fx.Graph, ends: set[fx.Node]) -> list[fx.Node]:
    """Returns the values on which parameters act last before the heads, behind all gates.

    Args:
        root: The owner of the modules and parameters that the graph names.
        graph: The annotated graph.
        ends: The nodes that already have a gate.
    """
    stored = _stored(root, graph, ends)
    ungated = []
    # Backwards from the output, up to the first gate or parameter on each path.
    reached = set(next(iter(graph.find_nodes(op="output"))).all_input_nodes)
    for node in reversed(graph.nodes):
        if node not in reached or node in ends:
            continue
        has_parameters = node.op == "call_module" and owns_state(root, node)
        combines_stored = node not in stored and any(n in stored for n in node.all_input_nodes)
        if _is_features(node) and (has_parameters or combines_stored):
            ungated.append(node)
        else:
            reached.update(node.all_input_nodes)
    return ungated


def _stored(root: nn.Module, graph: fx.Graph, ends: set[fx.Node]) -> set[fx.Node]:
    """Returns the nodes that read parameters by name, and the nodes computed from such nodes without a batch.

    Args:
        root: The owner of the parameters.
        graph: The annotated graph.
        ends: Nodes with a gate; what is computed from their values is not stored.
    """
    stored: set[fx.Node] = set()
    for node in graph.nodes:
        is_parameter = node.op == "get_attr" and isinstance(operator.attrgetter(node.target)(root), nn.Parameter)
        reads_stored = any(n in stored for n in node.all_input_nodes)
        is_derived = reads_stored and not info(node).batch_dims and node not in ends and node.op != "output"
        if is_parameter or is_derived:
            stored.add(node)
    return stored


def _module(root: nn.Module, node: fx.Node) -> nn.Module | None:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None
