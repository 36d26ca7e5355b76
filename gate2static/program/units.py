"""Where the gates go: after every gated unit, and wherever a parameter would otherwise reach a head past all gates."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gate2static.program.annotate import info
from gate2static.program.layer_kinds import channel_dim
from gate2static.program.tracer import WEIGHT_LAYERS, is_norm, is_users

_WEIGHT_FUNCTIONS = (
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)
_FEATURES_LAST = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear)


def gated_unit(value: Tensor, unit: str) -> Tensor:
    """Marks the gate of a unit in a program; never called."""
    raise AssertionError(unit)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A gated unit: a weight layer with the norm that follows it, or what alone stands before the heads.

    Any module with parameters that the trace kept whole is a weight layer, but for norms and PReLU; each tensor that is
    used of what it returns has a gate. So is a function such as `F.linear` whose weight is computed from parameters. A
    parameter added to the layer's output is its bias. Integers and tensors of fewer than two dimensions have no gate.

    Attributes:
        name: the layer's node, such as `layer1_0_conv1`.
        channels: C of its output.
        dim: the channel dimension of its output. Of a module whose class says nothing about channels it is 1 where the
            output has four or five dimensions, and the last otherwise.
    """

    name: str
    channels: int
    dim: int


def insert_gates(root: nn.Module, graph: fx.Graph) -> tuple[Unit, ...]:
    """Put a gate node after each unit of an annotated graph; the units in data-flow order."""
    ends: dict[fx.Node, tuple[str, int]] = {}
    stored = _stored(root, graph, set())
    for node in graph.nodes:
        weights = [_second(node)] if node.target in _WEIGHT_FUNCTIONS else node.all_input_nodes
        weighs = (node.target in _WEIGHT_FUNCTIONS or is_users(node.target)) and any(w in stored for w in weights)
        if _is_layer(_module(root, node)) or weighs:
            for number, value in enumerate(_values(node)):
                end = _end(root, value, stored)
                ends[end] = (value.name if number else node.name, _channel_dim(root, end, node))
    for node in _ungated(root, graph, set(ends)):
        ends[node] = (node.name, _channel_dim(root, node, node))
    order = {node: position for position, node in enumerate(graph.nodes)}
    return tuple(_insert_gate(graph, end, *ends[end]) for end in sorted(ends, key=order.__getitem__))


def owns_state(root: nn.Module, node: fx.Node) -> bool:
    """Whether a node reads floating-point parameters or buffers of its own, so that each stream has its copy."""
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(root)
        return isinstance(value, Tensor) and value.is_floating_point()
    module = _module(root, node)
    return module is not None and any(t.is_floating_point() for t in (*module.parameters(), *module.buffers()))


def _end(root: nn.Module, value: fx.Node, stored: set[fx.Node]) -> fx.Node:
    """Where a unit ends: at the bias that is added to the layer's output, and at the norm that follows."""
    following = _only_user(value)
    if following is not None and following.target in (operator.add, torch.add, "add") and len(following.args) == 2:
        other = next((n for n in following.args if n is not value), None)
        if other in stored and info(following).shape == info(value).shape:
            value, following = following, _only_user(following)
    return following if following is not None and is_norm(_module(root, following)) else value


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _second(node: fx.Node) -> Any:
    """The weight of a call of a weight function."""
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")


def _insert_gate(graph: fx.Graph, end: fx.Node, name: str, dim: int) -> Unit:
    with graph.inserting_after(end):
        gate = graph.call_function(gated_unit, (end, name))
    end.replace_all_uses_with(gate, delete_user_cb=lambda user: user is not gate)
    gate.meta["info"] = replace(info(end), macs=0)
    return Unit(name=name, channels=(info(end).shape or ())[dim], dim=dim)


def _is_layer(module: nn.Module | None) -> bool:
    if module is None or is_norm(module) or isinstance(module, nn.PReLU):
        return False
    return any(p.is_floating_point() for p in module.parameters())


def _values(node: fx.Node) -> Iterator[fx.Node]:
    """The feature maps that a layer returns: its value, or those parts of it that are used."""
    if _is_features(node):
        yield node
    elif info(node).shape is None:
        for user in list(node.users):
            if user.target in (operator.getitem, getattr):
                yield from _values(user)


def _is_features(node: fx.Node) -> bool:
    """Whether a value has channels: a floating-point tensor of at least two dimensions."""
    dtype = info(node).dtype
    return dtype is not None and dtype.is_floating_point and len(info(node).shape or ()) > 1


def _channel_dim(root: nn.Module, end: fx.Node, layer: fx.Node) -> int:
    """The channel dimension of a unit's output (see `Unit`)."""
    shape = info(end).shape or ()
    module = _module(root, layer)
    if isinstance(module, WEIGHT_LAYERS) or is_norm(module):
        return channel_dim(module, len(shape))
    if isinstance(module, nn.PReLU):
        return 1
    if layer.target in _WEIGHT_FUNCTIONS:
        return len(shape) - 1 if layer.target is F.linear else 1
    along = {d for n in end.all_input_nodes for d in _own_dims(n, len(shape))} if module is None else set()
    if len(along) == 1:
        return along.pop()
    return 1 if len(shape) in (4, 5) and not isinstance(module, _FEATURES_LAST) else len(shape) - 1


def _own_dims(node: fx.Node, ndim: int) -> list[int]:
    """Along which dimensions of a result with `ndim` dimensions a value that has no batch varies."""
    shape = info(node).shape
    if shape is None or info(node).batch_dims:
        return []
    return [d + ndim - len(shape) for d, size in enumerate(shape) if size > 1]


def _ungated(root: nn.Module, graph: fx.Graph, ends: set[fx.Node]) -> list[fx.Node]:
    """Values on which parameters act last before the heads: norms of their own, scales, position embeddings.

    Without a gate there each task would keep a private copy whatever the other gates say, and a network whose gates
    are all shared would not be exactly one backbone.
    """
    stored = _stored(root, graph, ends)
    found = []
    reached = set(next(iter(graph.find_nodes(op="output"))).all_input_nodes)
    for node in reversed(graph.nodes):
        if node not in reached or node in ends:
            continue
        own = node.op == "call_module" and owns_state(root, node)
        if _is_features(node) and (own or (node not in stored and any(n in stored for n in node.all_input_nodes))):
            found.append(node)
        else:
            reached.update(node.all_input_nodes)
    return found


def _stored(root: nn.Module, graph: fx.Graph, ends: set[fx.Node]) -> set[fx.Node]:
    """Parameters that are read by name, and what is computed from them before a batch comes in."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        parameter = node.op == "get_attr" and isinstance(operator.attrgetter(node.target)(root), nn.Parameter)
        derived = not info(node).batch_dims and node not in ends and any(n in found for n in node.all_input_nodes)
        if parameter or (derived and node.op != "output"):
            found.add(node)
    return found


def _module(root: nn.Module, node: fx.Node) -> nn.Module | None:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None
