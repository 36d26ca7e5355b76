"""Turns functions that compute what a layer computes into that layer, on the very parameters they were given.

So `F.linear(x, self.weight)` is gated and pruned like `nn.Linear`. The layer is tied: it stands beside the owner of the
parameters, and the owner keeps its names in the state dict, except for parameters that only functional layers use.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_LAYER_NORM = ("input", "normalized_shape", "weight", "bias", "eps")
_GROUP_NORM = ("input", "num_groups", "weight", "bias", "eps")
_RMS_NORM = ("input", "normalized_shape", "weight", "eps")

Make = Callable[..., nn.Module]
"""Makes a layer without values from the weight, whether there is a bias, and the function's other arguments by name."""


@dataclass(frozen=True)
class _Call:
    """A call of a function with a weight.

    Attributes:
        node: The node of the call.
        shape: The shape of the input, or None where it is not known.
        arguments: The arguments by name, without the input.
    """

    node: fx.Node
    shape: tuple[int, ...] | None
    arguments: dict[str, Any]


def make_weight_layers(root: nn.Module, graph: fx.Graph, shape_of: Callable[[Any], tuple[int, ...] | None]) -> None:
    """Rewrites calls of functions with a stored weight as calls of layers that share it.

    Args:
        root: The owner of the parameters; the layers are added to it.
        graph: The graph, rewritten in place. Calls with computed weights or options, or without a batch, stay.
        shape_of: Returns the shape of a node's value, or None where it is not known.
    """
    layers: dict[str, str] = {}
    # All shapes are asked for before the first rewriting, since they come from running the traced nodes.
    for call in _calls(graph, shape_of):
        node = call.node
        addend = _take_computed_bias(root, call)
        name = _base_name(call.arguments.get("weight"), node)
        # Equal calls share one layer, as calls of one module do.
        key = f"{node.target} {call.arguments}"
        if key not in layers:
            layer = _tied_layer(root, call)
            if layer is None:
                continue
            layers[key] = _owner(root, call.arguments["weight"], layer) or _add(root, layer, f"{name}_layer")
        source = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_before(node):
            result = graph.create_node("call_module", layers[key], (source,), {}, name=name)
            result.meta = dict(node.meta)
            if addend is not None:
                result = graph.call_function(operator.add, (result, addend))
                result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _calls(graph: fx.Graph, shape_of: Callable[[Any], tuple[int, ...] | None]) -> list[_Call]:
    """Returns the calls of a graph that have a layer, in order; see `make_weight_layers` for the arguments."""
    calls = []
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _LAYERS:
            names, _ = _LAYERS[node.target]
            arguments = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            shape = shape_of(arguments.pop("input", None))
            calls.append(_Call(node, shape, arguments))
    return calls


def _take_computed_bias(root: nn.Module, call: _Call) -> fx.Node | None:
    """Takes a bias that is no parameter out of a linear layer's arguments.

    Args:
        root: The owner of the parameters.
        call: The call; its arguments lose the bias.

    Returns:
        The node of the bias, which is added to the output of the layer, or None for all other calls.
    """
    bias = call.arguments.get("bias")
    if call.node.target is not F.linear or not isinstance(bias, fx.Node) or _stored(root, bias) is not None:
        return None
    del call.arguments["bias"]
    return bias


def _tied_layer(root: nn.Module, call: _Call) -> nn.Module | None:
    """Makes the layer that computes the same as a call, on the same tensors.

    Args:
        root: The owner of the tensors.
        call: The call, whose bias is a stored tensor if it has one.

    Returns:
        The layer, or None where the weight, the bias or an option is computed, or where no layer computes the same.
    """
    options = {name: value for name, value in call.arguments.items() if name not in ("weight", "bias")}
    weight = _stored(root, call.arguments.get("weight"))
    bias = _stored(root, call.arguments.get("bias"))
    has_other_bias = bias is None and call.arguments.get("bias") is not None
    if weight is None or has_other_bias or _has_node(options):
        return None
    # Convolutions also take an image without a batch, which has one dimension less than the weight.
    shape = call.shape
    if shape is None or len(shape) < 2 or (weight.dim() > 2 and len(shape) != weight.dim()):
        return None
    _, make = _LAYERS[call.node.target]
    try:
        layer = make(weight, bias is not None, **options)
    except (TypeError, ValueError):
        return None
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if getattr(layer, name).shape != tensor.shape:
            return None
        # The new layer has a parameter without values under this name.
        delattr(layer, name)
        if isinstance(tensor, nn.Parameter):
            layer.register_parameter(name, tensor)
        else:
            layer.register_buffer(name, tensor)
    return layer.eval()


def _has_node(options: Any) -> bool:
    nodes: list[fx.Node] = []
    fx.map_arg(options, nodes.append)
    return bool(nodes)


def _stored(root: nn.Module, node: Any) -> Tensor | None:
    """Returns the tensor that a node reads by name, or None for all other nodes and values."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(root)
    return value if isinstance(value, Tensor) else None


def _base_name(weight: Any, node: fx.Node) -> str:
    """Returns a name for a layer: `layers_0_attn_in_proj` for the weight `layers.0.attn.in_proj_weight`."""
    owner = str(weight.target).removesuffix("weight").rstrip("._") if isinstance(weight, fx.Node) else ""
    return owner.replace(".", "_") or node.name


def _owner(root: nn.Module, weight: fx.Node, layer: nn.Module) -> str | None:
    """Returns the name of a weight's owner if that is the layer itself, of which a forward uses the parts.

    Args:
        root: The owner of all modules.
        weight: The node that reads the weight.
        layer: The layer that was made for the call.

    Returns:
        The name of the module, or None where it is another class or has other settings or parameters.
    """
    name = str(weight.target).rpartition(".")[0]
    owner = root.get_submodule(name)
    # A layer's text has all of its settings.
    if type(owner) is not type(layer) or repr(owner) != repr(layer):
        return None
    pairs = zip(owner.parameters(), layer.parameters(), strict=True)
    return name if all(p is q for p, q in pairs) else None


def _add(root: nn.Module, layer: nn.Module, name: str) -> str:
    """Adds a layer under a name that is free, and returns the name."""
    while hasattr(root, name):
        name += "_"
    root.add_module(name, layer)
    return name


def _linear(weight: Tensor, bias: bool) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta")


def _convolution(kind: Make) -> Make:
    def make(weight: Tensor, bias: bool, groups: int = 1, **options: Any) -> nn.Module:
        # (channels out, channels in / groups, *window)
        outputs, inputs, *window = weight.shape
        return kind(inputs * groups, outputs, tuple(window), groups=groups, bias=bias, device="meta", **options)

    return make


def _transposed_convolution(kind: Make) -> Make:
    def make(weight: Tensor, bias: bool, groups: int = 1, **options: Any) -> nn.Module:
        # (channels in, channels out / groups, *window)
        inputs, outputs, *window = weight.shape
        return kind(inputs, outputs * groups, tuple(window), groups=groups, bias=bias, device="meta", **options)

    return make


def _layer_norm(weight: Tensor, bias: bool, normalized_shape: Any, eps: float = 1e-5) -> nn.Module:
    return nn.LayerNorm(tuple(normalized_shape), eps=eps, bias=bias, device="meta")


def _group_norm(weight: Tensor, bias: bool, num_groups: int, eps: float = 1e-5) -> nn.Module:
    if not bias:
        raise ValueError("the layer has a bias where it has a weight")
    return nn.GroupNorm(num_groups, len(weight), eps=eps, device="meta")


def _rms_norm(weight: Tensor, bias: bool, normalized_shape: Any, eps: float | None = None) -> nn.Module:
    return nn.RMSNorm(tuple(normalized_shape), eps=eps, device="meta")


def _prelu(weight: Tensor, bias: bool) -> nn.Module:
    return nn.PReLU(weight.numel(), device="meta")


_LAYERS: dict[Any, tuple[tuple[str, ...], Make]] = {
    F.linear: (("input", "weight", "bias"), _linear),
    F.conv1d: (_CONVOLUTION, _convolution(nn.Conv1d)),
    F.conv2d: (_CONVOLUTION, _convolution(nn.Conv2d)),
    F.conv3d: (_CONVOLUTION, _convolution(nn.Conv3d)),
    F.conv_transpose1d: (_TRANSPOSED_CONVOLUTION, _transposed_convolution(nn.ConvTranspose1d)),
    F.conv_transpose2d: (_TRANSPOSED_CONVOLUTION, _transposed_convolution(nn.ConvTranspose2d)),
    F.conv_transpose3d: (_TRANSPOSED_CONVOLUTION, _transposed_convolution(nn.ConvTranspose3d)),
    F.layer_norm: (_LAYER_NORM, _layer_norm),
    F.group_norm: (_GROUP_NORM, _group_norm),
    F.rms_norm: (_RMS_NORM, _rms_norm),
    F.prelu: (("input", "weight"), _prelu),
    torch.layer_norm: (_LAYER_NORM, _layer_norm),
    torch.group_norm: (_GROUP_NORM, _group_norm),
    torch.rms_norm: (_RMS_NORM, _rms_norm),
    torch.prelu: (("input", "weight"), _prelu),
}
"""Function -> the names of its arguments by position, and how to make its layer.

`torch.conv2d` and its like are the same objects as those of `torch.nn.functional`.
"""
