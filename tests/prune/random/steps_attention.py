"""Attention, as it is written in the field: over tokens, over channels, in windows, with and without softmax."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.prune.random.steps import Call, Chosen, DoesNotFitError, Form, Step

Split = Callable[[Tensor, int], tuple[Tensor, ...]]
"""(N, L, 3·H·D) and the number of heads -> queries, keys and values (N, H, L, D)."""


def _by_permute(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    batch, tokens, width = qkv.shape
    split = qkv.reshape(batch, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    return split[0], split[1], split[2]


def _by_unbind(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    batch, tokens, width = qkv.shape
    return qkv.reshape(batch, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def _by_chunk(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    q, k, v = qkv.chunk(3, dim=-1)
    return tuple(x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))


def _by_slices(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    width = qkv.shape[-1] // 3
    parts = [qkv[..., k * width : (k + 1) * width] for k in range(3)]
    return tuple(x.view(x.shape[0], x.shape[1], heads, -1).permute(0, 2, 1, 3) for x in parts)


def _by_heads_first(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    # Each head's queries, keys and values lie side by side.
    return qkv.view(qkv.shape[0], qkv.shape[1], heads, -1).transpose(1, 2).chunk(3, -1)


SPLITS: list[Split] = [_by_permute, _by_unbind, _by_chunk, _by_slices, _by_heads_first]


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _rotate_interleaved(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)


class Attention(nn.Module):
    """Self-attention (N, L, C) -> (N, L, C)."""

    def __init__(self, c: Chosen, tokens: int, channels: int) -> None:
        super().__init__()
        self.heads, width = c.number(1, 3), 2 * c.number(1, 2)
        inner = self.heads * width
        self.fused, self.split, self.core = c.flag(), c.one_of(SPLITS), c.one_of([self.plain, self.fast, self.linear])
        self.qkv = nn.Linear(channels, 3 * inner, bias=c.flag())
        self.q, self.k, self.v = (nn.Linear(channels, inner) for _ in range(3))
        self.project = c.one_of([nn.Linear(inner, channels), nn.Linear(inner, channels), nn.Identity()])
        self.rotate = c.one_of([None, None, _rotate_half, _rotate_interleaved])
        self.normalised = c.number(0, 3) == 0
        self.q_norm, self.k_norm = nn.LayerNorm(width), nn.RMSNorm(width)
        self.table = nn.Parameter(torch.randn(2 * tokens - 1, self.heads)) if c.flag() else None
        places = torch.arange(tokens)
        self.register_buffer("index", (places[:, None] - places[None] + tokens - 1).flatten())
        angles = (places[:, None] / 10 ** torch.arange(width // 2)).repeat(1, 2)
        self.register_buffer("sine", angles.sin())
        self.register_buffer("cosine", angles.cos())

    def bias(self) -> Tensor | None:
        if self.table is None:
            return None
        size = self.cosine.shape[0]
        return self.table[self.index].view(size, size, -1).permute(2, 0, 1).contiguous().unsqueeze(0)

    def plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        bias = self.bias()
        return torch.matmul((scores if bias is None else scores + bias).softmax(dim=-1), v)

    def fast(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias())

    def linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        if self.fused:
            q, k, v = self.split(self.qkv(x), self.heads)
        else:
            q, k, v = (f(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.normalised:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotate is not None:
            q, k = (y * self.cosine + self.rotate(y) * self.sine for y in (q, k))
        return self.project(self.core(q, k, v).transpose(1, 2).reshape(batch, tokens, -1))


def self_attention(c: Chosen) -> Step:
    index, (_, tokens, channels) = c.of_dim(3)
    forms: list[Form] = [
        lambda x, norm, attention: attention(x),
        lambda x, norm, attention: x + attention(norm(x)),
        lambda x, norm, attention: attention(norm(x)),
    ]
    attention = Attention(c, tokens, channels)
    kept = forms[:1] if isinstance(attention.project, nn.Identity) else forms
    return Call(c.one_of(kept), nn.LayerNorm(channels), attention), [index]


def attention_by_einsum(c: Chosen) -> Step:
    index, (_, _, channels) = c.of_dim(3)

    def many_heads(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
        q, k, v = qkv(x).unflatten(-1, (3, 2, 3)).unbind(2)
        scores = torch.einsum("nlhd,nmhd->nhlm", q, k) / 2
        return out(torch.einsum("nhlm,nmhd->nlhd", scores.softmax(-1), v).flatten(2))

    def one_head(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
        q, k, v = qkv(x).split([6, 6, 6], -1)
        return out(torch.bmm(torch.bmm(q, k.permute(0, 2, 1)).softmax(2), v))

    return Call(c.one_of([many_heads, one_head]), nn.Linear(channels, 18), nn.Linear(6, channels)), [index]


def channel_attention(c: Chosen) -> Step:
    """XCiT: a channel attends to channels; queries and keys are normalised along the tokens."""
    index, (_, _, channels) = c.of_dim(3)
    heads, width = c.number(1, 2), c.number(2, 3)

    def cross_covariance(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = qkv(x).reshape(batch, tokens, 3, heads, width).permute(2, 0, 3, 4, 1).unbind(0)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return out(mixed.permute(0, 3, 1, 2).reshape(batch, tokens, -1))

    def of_groups(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
        q, k, v = qkv(x).transpose(1, 2).chunk(3, 1)
        return out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2))

    layers = nn.Linear(channels, 3 * heads * width, bias=c.flag()), nn.Linear(heads * width, channels)
    return Call(c.one_of([cross_covariance, of_groups]), *layers), [index]


def torch_attention(c: Chosen) -> Step:
    index, (_, _, channels) = c.of_dim(3)
    heads = c.one_of([k for k in range(1, channels + 1) if channels % k == 0])
    layer = nn.MultiheadAttention(channels, heads, batch_first=True, bias=c.flag())
    forms: list[Form] = [
        lambda x, layer: layer(x, x, x, need_weights=False)[0],
        lambda x, layer: x + layer(x, x, x)[0],
    ]
    return Call(c.one_of(forms), layer), [index]


def class_attention(c: Chosen) -> Step:
    """Only the first token, or a learnt one, asks."""
    index, (_, _, channels) = c.of_dim(3)

    def first(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
        asked = q(x[:, :1])
        return torch.cat([(asked @ k(x).transpose(1, 2)).softmax(-1) @ v(x), x[:, 1:]], 1)

    def fast(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
        return F.scaled_dot_product_attention(q(x[:, 0]).unsqueeze(1), k(x), v(x)).squeeze(1)

    layers = nn.Linear(channels, 4), nn.Linear(channels, 4), nn.Linear(channels, channels)
    return Call(c.one_of([first, fast]), *layers), [index]


def attention_on_maps(c: Chosen) -> Step:
    """Queries, keys and values by 1×1 convolutions, tokens by flattening, as in non-local networks and SAGAN."""
    index, (_, channels, _, _) = c.of_dim(4)

    def non_local(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, out: nn.Module) -> Tensor:
        scores = q(x).flatten(2).transpose(1, 2) @ k(x).flatten(2)
        y = (scores.softmax(-1) @ v(x).flatten(2).transpose(1, 2)).transpose(1, 2)
        return x + out(y.reshape(x.shape[0], -1, x.shape[2], x.shape[3]))

    layers = [nn.Conv2d(channels, n, 1) for n in (2, 2, 3)]
    return Call(non_local, *layers, nn.Conv2d(3, channels, 1)), [index]


def windows(c: Chosen) -> Step:
    """Swin: roll, cut into windows, attend (or mix) inside, put together, roll back."""
    index, (_, channels, height, width) = c.of_dim(4)
    if height % 2 or width % 2:
        raise DoesNotFitError
    shift, side = c.number(0, 1), c.one_of([s for s in (2, 4) if height % s == width % s == 0])

    def form(x: Tensor, norm: nn.Module, inner: nn.Module) -> Tensor:
        y = norm(x.permute(0, 2, 3, 1))
        y = torch.roll(y, (-shift, -shift), (1, 2)) if shift else y
        y = y.view(y.shape[0], height // side, side, width // side, side, channels)
        y = inner(y.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels))
        y = y.view(-1, height // side, width // side, side, side, channels).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(-1, height, width, channels)
        y = torch.roll(y, shifts=(shift, shift), dims=(1, 2)) if shift else y
        return x + y.permute(0, 3, 1, 2)

    attention = Attention(c, side * side, channels)
    closed = not isinstance(attention.project, nn.Identity)
    return Call(form, nn.LayerNorm(channels), attention if closed else nn.Linear(channels, channels)), [index]


TOKEN_STEPS = [
    self_attention, self_attention, self_attention, attention_by_einsum, channel_attention, torch_attention,
    class_attention,
]  # fmt: skip
MAP_STEPS = [attention_on_maps, windows]
