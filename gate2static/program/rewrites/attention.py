"""Writes attention and the transformer layers of `torch.nn` out as linear layers and operators on tensors.

As modules they are one opaque piece each, with branches for fast paths. Written out, their projections are gated units.
A form returns `NotImplemented` where a module is used in a way that is not written out; the module then stays whole.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.program.layer_kinds import has_own_forward
from gate2static.program.tracing.known_values import ValueTracer

Form = Callable[..., Any]
"""Writes a module out; it is called with a tracer, the module and the module's arguments."""


def written_out(module: nn.Module) -> Form | None:
    """Returns the form that writes a module out, or None for modules that have no form."""
    if module._forward_hooks or module._forward_pre_hooks or has_own_forward(module):
        return None
    return next((form for kind, form in _FORMS.items() if type(module).forward is kind.forward), None)


def attention_weights(query: Any, key: Any, mask: Any, *, scale: float, dropout: float) -> Any:
    """Returns the softmax of the scaled products of queries and keys, with dropout that follows `train()`.

    Args:
        query: The queries, (…, L, D).
        key: The keys, (…, S, D).
        mask: What is added to the products, or a Boolean mask that is true where a key may be read. None for no mask.
        scale: The factor of the products.
        dropout: The dropout probability in training.

    Returns:
        The weights, (…, L, S).
    """
    scores = query.matmul(key.transpose(-2, -1)) * scale
    if mask is not None:
        scores = scores.masked_fill(torch.logical_not(mask), -math.inf) if _is_bool(mask) else scores + mask
    weights = scores.softmax(-1)
    return F.dropout(weights, dropout) if dropout else weights


def _is_bool(mask: Any) -> bool:
    value = mask if isinstance(mask, Tensor) else mask.tracer.values(mask.node)[0]
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _multihead_attention(
    tracer: ValueTracer,
    layer: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """Writes out nn.MultiheadAttention without padding mask, extra keys or a mask per head.

    `is_causal` only says that the mask is causal, so it is not read.
    """
    shape = tracer.shape(query)
    has_extra_keys = layer.bias_k is not None or layer.bias_v is not None or layer.add_zero_attn
    if shape is None or len(shape) != 3 or has_extra_keys or key_padding_mask is not None:
        return NotImplemented
    if attn_mask is not None and len(tracer.shape(attn_mask) or ()) != 2:
        return NotImplemented
    # A Boolean mask of this module is true where a key may not be read, contrary to the function's.
    is_inverted = attn_mask is not None and _is_bool(attn_mask)
    mask = torch.logical_not(attn_mask) if is_inverted else attn_mask
    q, k, v = (_split_heads(layer, x) for x in _project(layer, query, key, value))
    length = query.size(1 if layer.batch_first else 0)
    # Dropout inside the fused function would not follow `train()`.
    dropout = layer.dropout if tracer.trains else 0.0
    # Where the weights are neither returned nor used, they are dead code.
    weights = attention_weights(q, k, mask, scale=layer.head_dim**-0.5, dropout=dropout)
    # (N, heads, L, D)
    out = weights.matmul(v) if dropout else F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # (N, L, E)
    out = out.transpose(1, 2).reshape(-1, length, layer.embed_dim)
    out = layer.out_proj(out if layer.batch_first else out.transpose(0, 1))
    if not need_weights:
        return out, None
    return out, weights.mean(1) if average_attn_weights else weights


def _project(layer: nn.MultiheadAttention, query: Any, key: Any, value: Any) -> list[Any]:
    """Returns queries, keys and values, (…, E) each."""
    size = layer.embed_dim
    starts = (0, size, 2 * size)
    if layer._qkv_same_embed_dim and query is key and key is value:
        # All have the same input, so they are one linear layer with the joint weight, (3 E, E).
        joint = F.linear(query, layer.in_proj_weight, layer.in_proj_bias)
        return [joint.narrow(-1, start, size) for start in starts]
    if layer._qkv_same_embed_dim:
        weights: Any = [layer.in_proj_weight.narrow(0, start, size) for start in starts]
    else:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    bias = layer.in_proj_bias
    biases = [None if bias is None else bias.narrow(0, start, size) for start in starts]
    inputs = (query, key, value)
    return [F.linear(x, weight, b) for x, weight, b in zip(inputs, weights, biases, strict=True)]


def _split_heads(layer: nn.MultiheadAttention, x: Any) -> Any:
    """Returns (N, heads, L, D) for (N, L, E), or for (L, N, E) where the batch is second."""
    x = x if layer.batch_first else x.transpose(0, 1)
    return x.reshape(-1, x.size(1), layer.num_heads, layer.head_dim).transpose(1, 2)


def _encoder_layer(
    tracer: ValueTracer,
    layer: nn.TransformerEncoderLayer,
    src: Any,
    src_mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool = False,
) -> Any:
    """Writes out the equations of nn.TransformerEncoderLayer, which its fast path for eval mode fuses."""
    if src_key_padding_mask is not None:
        return NotImplemented
    if layer.norm_first:
        x = src + layer._sa_block(layer.norm1(src), src_mask, None, is_causal)
        return x + layer._ff_block(layer.norm2(x))
    x = layer.norm1(src + layer._sa_block(src, src_mask, None, is_causal))
    return layer.norm2(x + layer._ff_block(x))


def _encoder(
    tracer: ValueTracer,
    encoder: nn.TransformerEncoder,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:
    """Writes out nn.TransformerEncoder as its layers one after the other, without nested tensors."""
    if src_key_padding_mask is not None:
        return NotImplemented
    for layer in encoder.layers:
        src = layer(src, src_mask=mask)
    return src if encoder.norm is None else encoder.norm(src)


_FORMS: dict[type[nn.Module], Form] = {
    nn.MultiheadAttention: _multihead_attention,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerEncoder: _encoder,
}
