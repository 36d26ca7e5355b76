"""Batch norms folded into the convolutions before them.

    γ · (W x + b − μ) / √(σ² + ε) + β = W′ x + b′,    W′ = W · γ / √(σ² + ε),    b′ = (b − μ) · γ / √(σ² + ε) + β

per output channel, computed in float64 and rounded once. Pruning itself does not fold: its weights are slices of the
trained ones, bit for bit, so equality can be checked in float64.

Requires: nothing; folded constants make more weights foldable. Ensures: the same function, but for rounding; no batch
norm stands behind a convolution that nothing else reads and whose tensors are all stored.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gate2static.static.aten import CONVOLUTIONS
from gate2static.static.capturing.capture import constant, store

_aten = torch.ops.aten
_TRANSPOSED = {
    _aten.conv_transpose1d.default,
    _aten.conv_transpose2d.input,
    _aten.conv_transpose3d.input,
}


def fold_norms(network: fx.GraphModule) -> bool:
    """Folds every batch norm whose convolution nothing else reads, in place.

    Args:
        network: A captured network.

    Returns:
        Whether there was one.
    """
    changed = False
    for norm in network.graph.find_nodes(op="call_function", target=_aten.batch_norm.default):
        layer = norm.args[0]
        if _is_foldable(layer) and _has_stored_statistics(layer, norm):
            _fold(network, layer, norm)
            changed = True
    return changed


def _is_foldable(layer: Any) -> bool:
    """Returns whether a convolution can take in the norm behind it, since nothing else reads the convolution.

    Transposed convolutions in groups are not folded: their weights (channels in, channels out / groups, *kernel) do not
    have all output channels along one dimension.

    Args:
        layer: The input of a norm.
    """
    if not isinstance(layer, fx.Node) or len(layer.users) != 1 or layer.op != "call_function":
        return False
    if layer.target in _TRANSPOSED:
        # conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)
        return layer.args[6:7] in ((), (1,))
    return layer.target in CONVOLUTIONS.values()


def _has_stored_statistics(layer: fx.Node, norm: fx.Node) -> bool:
    """Returns whether the norm normalises by running statistics, and all tensors of layer and norm are stored.

    Args:
        layer: A convolution.
        norm: The batch norm behind it.
    """
    # batch_norm(x, scale, shift, mean, variance, training, momentum, eps, cudnn)
    tensors = (*layer.args[1:3], *norm.args[1:5])
    are_stored = all(value is None or (isinstance(value, fx.Node) and value.op == "get_attr") for value in tensors)
    is_training = norm.args[5]
    return are_stored and norm.args[3] is not None and not is_training


def _fold(network: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> None:
    """Gives the layer weights and biases that include the norm, and removes the norm.

    Args:
        network: The network, which gets the new tensors.
        layer: A convolution.
        norm: The batch norm behind it.
    """
    absent = [None] * (3 - len(layer.args))
    layer_args: list[Any] = [*layer.args, *absent]
    weight = _in_float64(network, layer_args[1])
    bias = _in_float64(network, layer_args[2])
    scale, shift, mean, variance = (_in_float64(network, node) for node in norm.args[1:5])
    eps: Any = norm.args[7]
    assert weight is not None
    assert mean is not None
    assert variance is not None
    is_transposed = layer.target in _TRANSPOSED
    folded = fuse_conv_bn_weights(weight, bias, mean, variance, eps, scale, shift, transpose=is_transposed)
    dtype = constant(network, layer_args[1]).dtype
    with network.graph.inserting_before(layer):
        # (weight, bias)
        for position, value in enumerate(folded, start=1):
            name = store(network, value.to(dtype), trained=True)
            layer_args[position] = network.graph.get_attr(name)
    layer.args = tuple(layer_args)
    norm.replace_all_uses_with(layer)
    network.graph.erase_node(norm)


def _in_float64(network: fx.GraphModule, node: Any) -> Tensor | None:
    """Returns the tensor that a node reads, in float64; None for an absent argument."""
    if node is None:
        return None
    return constant(network, node).double()
