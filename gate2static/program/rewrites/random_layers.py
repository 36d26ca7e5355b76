"""Turns functions that draw random numbers in training into the layers that do, so that they follow `train()`.

A trace fixes the flag `training` that such a function is given; a layer knows for itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gate2static.graphs import module_around

_DROPOUT = ("input", "p", "training")
_RRELU = ("input", "lower", "upper", "training")

_LAYERS: dict[Any, tuple[tuple[str, ...], type[nn.Module]]] = {
    F.dropout: (_DROPOUT, nn.Dropout),
    F.dropout1d: (_DROPOUT, nn.Dropout1d),
    F.dropout2d: (_DROPOUT, nn.Dropout2d),
    F.dropout3d: (_DROPOUT, nn.Dropout3d),
    F.alpha_dropout: (_DROPOUT, nn.AlphaDropout),
    F.feature_alpha_dropout: (_DROPOUT, nn.FeatureAlphaDropout),
    F.rrelu: (_RRELU, nn.RReLU),
    torch.dropout: (_DROPOUT, nn.Dropout),
    torch.alpha_dropout: (_DROPOUT, nn.AlphaDropout),
    torch.feature_alpha_dropout: (_DROPOUT, nn.FeatureAlphaDropout),
    torch.rrelu: (_RRELU, nn.RReLU),
}
"""Function -> the names of its arguments by position, and its layer."""

_FLAG_BY_DEFAULT = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
"""Functions whose flag `training` is true unless it is given."""


@dataclass(frozen=True)
class RandomCall:
    """A call of a function that draws random numbers in training.

    Attributes:
        source: The node of its input.
        kind: The layer that it stands for.
        options: The arguments of that layer by name.
        draws: Whether the call is given `training=True`.
    """

    source: fx.Node
    kind: type[nn.Module]
    options: dict[str, Any]
    draws: bool


def random_call(node: fx.Node) -> RandomCall | None:
    """Returns what a node draws, or None for nodes that have no such layer or whose options are computed."""
    if node.op != "call_function" or node.target not in _LAYERS:
        return None
    names, kind = _LAYERS[node.target]
    arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    source = arguments.pop("input", None)
    flag = arguments.pop("train" if "train" in arguments else "training", node.target in _FLAG_BY_DEFAULT)
    arguments.pop("inplace", None)
    if not isinstance(source, fx.Node) or any(isinstance(x, fx.Node) for x in (flag, *arguments.values())):
        return None
    return RandomCall(source, kind, arguments, bool(flag))


def make_random_layers(graph: fx.Graph, add: Callable[[str, str, nn.Module], str]) -> None:
    """Turns calls of random functions into calls of layers.

    Args:
        graph: The graph as it is in training, rewritten in place.
        add: Called with the name of a module, a name and a layer; adds the layer to it and returns its full name.
    """
    for node in graph.nodes:
        call = random_call(node)
        if call is None:
            continue
        layer = call.kind(**call.options)
        # What draws nothing in training either must not begin to.
        if not call.draws:
            layer = nn.LeakyReLU((layer.lower + layer.upper) / 2) if isinstance(layer, nn.RReLU) else nn.Identity()
        node.target = add(module_around(node), f"{node.name}_layer", layer)
        node.op = "call_module"
        node.args = (call.source,)
        node.kwargs = {}
