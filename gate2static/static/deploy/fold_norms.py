"""Batch norms folded into the convolutions before them, in float64 and rounded once.

Pruning itself does not fold, so that its weights are slices of the trained ones, bit for bit, and equality can be
checked in float64.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gate2static.static.aten import CONVOLUTIONS
from gate2static.static.capture import constant, store

_aten = torch.ops.aten
_TRANSPOSED = {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}


def fold_norms(network: fx.GraphModule) -> bool:
    """Folds, in place, every batch norm whose convolution nothing else reads.

    Returns:
        Whether there was one.
    """
    norms = network.graph.find_nodes(op="call_function", target=_aten.batch_norm.default)
    folded = [_fold(network, norm) for norm in norms]
    return any(folded)


def _fold(network: fx.GraphModule, norm: fx.Node) -> bool:
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or len(layer.users) != 1 or layer.op != "call_function":
        return False
    is_plain = layer.target in CONVOLUTIONS.values()
    is_transposed = layer.target in _TRANSPOSED
    is_grouped_transposed = is_transposed and layer.args[6:7] not in ((), (1,))
    if not (is_plain or is_transposed) or is_grouped_transposed:
        return False
    # batch_norm(x, scale, shift, mean, variance, training, momentum, eps, cudnn)
    tensors = (*layer.args[1:3], *norm.args[1:5])
    are_stored = all(a is None or (isinstance(a, fx.Node) and a.op == "get_attr") for a in tensors)
    if not are_stored or norm.args[3] is None or norm.args[5]:
        return False
    args: list[Any] = list(layer.args) + [None] * (3 - len(layer.args))
    weight = _double(network, args[1])
    bias = _double(network, args[2])
    scale, shift, mean, variance = (_double(network, a) for a in norm.args[1:5])
    assert weight is not None
    assert mean is not None
    assert variance is not None
    eps: Any = norm.args[7]
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, eps, scale, shift, transpose=is_transposed)
    dtype = constant(network, args[1]).dtype
    with network.graph.inserting_before(layer):
        args[1], args[2] = (network.graph.get_attr(store(network, value.to(dtype), trained=True)) for value in fused)
    layer.args = tuple(args)
    norm.replace_all_uses_with(layer)
    network.graph.erase_node(norm)
    return True


def _double(network: fx.GraphModule, node: Any) -> Tensor | None:
    return None if node is None else constant(network, node).double()
