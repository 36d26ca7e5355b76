"""Functions that compute what a layer computes become that layer, on the very parameters they were given.

So `F.linear(x, self.weight)` is gated and pruned like `nn.Linear`. The layer is tied: it stands beside the owner of the
parameters, which keeps its names in the state dict.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _linear(weight: Tensor, bias: bool) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta")


def _conv(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def make(weight: Tensor, bias: bool, groups: int = 1, **options: Any) -> nn.Module:
        outputs, inputs, *kernel = weight.shape
        return kind(inputs * groups, outputs, tuple(kernel), groups=groups, bias=bias, device="meta", **options)

    return make


def _transposed(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def make(weight: Tensor, bias: bool, groups: int = 1, **options: Any) -> nn.Module:
        inputs, outputs, *kernel = weight.shape
        return kind(inputs, outputs * groups, tuple(kernel), groups=groups, bias=bias, device="meta", **options)

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


_LAYERS: dict[Any, tuple[tuple[str, ...], Callable[..., nn.Module]]] = {
    F.linear: (("input", "weight", "bias"), _linear),
    F.conv1d: (_CONV, _conv(nn.Conv1d)),
    F.conv2d: (_CONV, _conv(nn.Conv2d)),
    F.conv3d: (_CONV, _conv(nn.Conv3d)),
    F.conv_transpose1d: (_TRANSPOSED, _transposed(nn.ConvTranspose1d)),
    F.conv_transpose2d: (_TRANSPOSED, _transposed(nn.ConvTranspose2d)),
    F.conv_transpose3d: (_TRANSPOSED, _transposed(nn.ConvTranspose3d)),
    F.layer_norm: (("input", "normalized_shape", "weight", "bias", "eps"), _layer_norm),
    F.group_norm: (("input", "num_groups", "weight", "bias", "eps"), _group_norm),
    F.rms_norm: (("input", "normalized_shape", "weight", "eps"), _rms_norm),
    F.prelu: (("input", "weight"), _prelu),
    torch.layer_norm: (("input", "normalized_shape", "weight", "bias", "eps"), _layer_norm),
    torch.group_norm: (("input", "num_groups", "weight", "bias", "eps"), _group_norm),
    torch.rms_norm: (("input", "normalized_shape", "weight", "eps"), _rms_norm),
    torch.prelu: (("input", "weight"), _prelu),
}
"""Function -> the names of its arguments, and how to make the layer from the weight, whether there is a bias, and the
other arguments. `torch.conv2d` and its like are the same objects as those of `torch.nn.functional`."""


def make_weight_layers(root: nn.Module, graph: fx.Graph, shape_of: Callable[[Any], tuple[int, ...] | None]) -> None:
    """Rewrite calls of functions with a stored weight as calls of layers that share it.

    Args:
        root: owner of the parameters; the layers are added to it.
        graph: rewritten in place. Calls with computed weights or options, or without a batch, stay as they are.
        shape_of: the shape of a node's value, where it is known.
    """
    calls = []
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _LAYERS:
            given = {**dict(zip(_LAYERS[node.target][0], node.args, strict=False)), **node.kwargs}
            calls.append((node, shape_of(given.pop("input", None)), given))
    made: dict[str, str] = {}
    for node, shape, given in calls:
        added = _take_computed_bias(root, node, given)
        name = _base_name(given.get("weight"), node)
        key = f"{node.target} {given}"
        if key not in made:
            layer = _tied_layer(root, _LAYERS[node.target][1], given, shape)
            if layer is None:
                continue
            made[key] = _owner(root, given["weight"], layer) or _add(root, layer, f"{name}_layer")
        source = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_before(node):
            call = graph.create_node("call_module", made[key], (source,), {}, name=name)
            call.meta = dict(node.meta)
            if added is not None:
                call = graph.call_function(operator.add, (call, added))
                call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)


def _take_computed_bias(root: nn.Module, node: fx.Node, given: dict[str, Any]) -> fx.Node | None:
    """Take a bias that is no parameter out of a linear layer's arguments: it is added afterwards."""
    bias = given.get("bias")
    if node.target is not F.linear or not isinstance(bias, fx.Node) or _stored(root, bias) is not None:
        return None
    del given["bias"]
    return bias


def _tied_layer(
    root: nn.Module, make: Callable[..., nn.Module], given: dict[str, Any], shape: tuple[int, ...] | None
) -> nn.Module | None:
    """The layer, or None where there is none that computes the same."""
    options = {name: value for name, value in given.items() if name not in ("weight", "bias")}
    weight, bias = (_stored(root, given.get(name)) for name in ("weight", "bias"))
    if weight is None or (bias is None and given.get("bias") is not None) or _has_node(options):
        return None
    # Convolutions also take an image without a batch.
    if shape is None or len(shape) < 2 or (weight.dim() > 2 and len(shape) != weight.dim()):
        return None
    try:
        layer = make(weight, bias is not None, **options)
    except (TypeError, ValueError):
        return None
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if getattr(layer, name).shape != tensor.shape:
            return None
        delattr(layer, name)
        if isinstance(tensor, nn.Parameter):
            layer.register_parameter(name, tensor)
        else:
            layer.register_buffer(name, tensor)
    return layer.eval()


def _has_node(options: Any) -> bool:
    found: list[fx.Node] = []
    fx.map_arg(options, found.append)
    return bool(found)


def _stored(root: nn.Module, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(root)
    return value if isinstance(value, Tensor) else None


def _base_name(weight: Any, node: fx.Node) -> str:
    """`layers.0.attn.in_proj_weight` -> `layers_0_attn_in_proj`."""
    owner = str(weight.target).removesuffix("weight").rstrip("._") if isinstance(weight, fx.Node) else ""
    return owner.replace(".", "_") or node.name


def _owner(root: nn.Module, weight: fx.Node, layer: nn.Module) -> str | None:
    """The module that the weight belongs to, if it is this very layer, only called by its parts."""
    name = str(weight.target).rpartition(".")[0]
    owner = root.get_submodule(name)
    same = type(owner) is type(layer) and repr(owner) == repr(layer)
    return name if same and all(p is q for p, q in zip(owner.parameters(), layer.parameters(), strict=True)) else None


def _add(root: nn.Module, layer: nn.Module, name: str) -> str:
    while hasattr(root, name):
        name += "_"
    root.add_module(name, layer)
    return name
