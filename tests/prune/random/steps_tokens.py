"""Steps on sequences of tokens (N, L, C), and on whatever else has three dimensions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.prune.random.steps import Call, Chosen, DoesNotFitError, Form, Owned, Step


def linear(c: Chosen) -> Step:
    index, (_, _, last) = c.of_dim(3)
    outputs = c.number(1, 8)
    norm = c.one_of([nn.Identity, nn.Identity, nn.LayerNorm, nn.RMSNorm])(outputs)
    return nn.Sequential(nn.Linear(last, outputs, bias=c.flag()), norm, c.activation()), [index]


def convolution_1d(c: Chosen) -> Step:
    index, (_, second, last) = c.of_dim(3)
    turned = c.flag()
    channels, outputs = last if turned else second, c.number(1, 6)
    layers: list[nn.Module] = [
        nn.Conv1d(channels, outputs, 3, padding=1, bias=c.flag()),
        nn.Conv1d(channels, channels * 2, 3, padding=1, groups=channels),
        nn.Conv1d(channels, channels, 1, groups=c.divisor(channels)),
        nn.ConvTranspose1d(channels, outputs, 2, 2),
        nn.ConvTranspose1d(channels, channels, 1, groups=channels),
    ]
    layer = c.one_of(layers)
    form: Form = lambda x, layer, norm: norm(layer(x.transpose(1, 2))).transpose(1, 2)  # noqa: E731
    norm = c.norm(layer.out_channels, 1)
    return (Call(form, layer, norm) if turned else nn.Sequential(layer, norm, c.activation())), [index]


def depthwise_on_grid(c: Chosen) -> Step:
    """A depth-wise convolution on tokens put back on their grid, as in PVTv2 and CvT."""
    index, (_, tokens, channels) = c.of_dim(3)
    size = round(tokens**0.5)
    if size * size != tokens:
        raise DoesNotFitError

    def form(x: Tensor, layer: nn.Module) -> Tensor:
        batch, _, channels = x.shape
        grid = x.transpose(1, 2).view(batch, channels, size, size)
        return layer(grid).flatten(2).transpose(1, 2)

    return Call(form, nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)), [index]


def norm(c: Chosen) -> Step:
    index, (_, second, last) = c.of_dim(3)

    def root_mean_square(x: Tensor, scale: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * scale

    made: list[nn.Module] = [
        nn.LayerNorm(last),
        nn.LayerNorm(last, elementwise_affine=False),
        nn.RMSNorm(last),
        Owned(root_mean_square, last),
        nn.BatchNorm1d(second),
        nn.GroupNorm(1, second),
        nn.GroupNorm(c.divisor(second), second),
        Call(lambda x, norm: norm(x.transpose(1, 2)).transpose(1, 2), nn.BatchNorm1d(last)),
        Call(lambda x, norm: norm(x.transpose(1, 2)).transpose(1, 2), nn.GroupNorm(c.divisor(last), last)),
        nn.LayerNorm((second, last)),
    ]
    return c.one_of(made), [index]


def perceptron(c: Chosen) -> Step:
    """The transformer's second half, its norm before or after, with a layer scale or without."""
    index, (_, _, last) = c.of_dim(3)
    layers = nn.Sequential(nn.Linear(last, 2 * last), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * last, last))
    forms: list[Form] = [
        lambda x, layers, norm, scale: x + layers(norm(x)),
        lambda x, layers, norm, scale: norm(x + layers(x)),
        lambda x, layers, norm, scale: x + scale(layers(norm(x))),
    ]
    scale = Owned(lambda x, scale: x * scale, last)
    return Call(c.one_of(forms), layers, c.one_of([nn.LayerNorm, nn.RMSNorm])(last), scale), [index]


def gated_perceptron(c: Chosen) -> Step:
    index, (_, _, last) = c.of_dim(3)
    hidden = c.number(2, 5)

    def by_chunk(both: Tensor) -> Tensor:
        gate, value = both.chunk(2, -1)
        return F.silu(gate) * value

    def by_split(both: Tensor) -> Tensor:
        value, gate = torch.split(both, [hidden, hidden], dim=2)
        return F.silu(gate) * value

    fused: list[Form] = [
        lambda x, both, out: out(F.glu(both(x), dim=-1)),
        lambda x, both, out: out(by_chunk(both(x))),
        lambda x, both, out: out(by_split(both(x))),
        lambda x, both, out: out(both(x)[..., :hidden] * both(x)[..., hidden:].sigmoid()),
        lambda x, both, out: x + out(F.gelu(both(x).unflatten(2, (2, hidden))[:, :, 0]) * both(x)[..., hidden:]),
    ]
    if c.flag():
        return Call(c.one_of(fused), nn.Linear(last, 2 * hidden), nn.Linear(hidden, last)), [index]
    two: Form = lambda x, gate, up, down: x + down(F.silu(gate(x)) * up(x))  # noqa: E731
    return Call(two, nn.Linear(last, hidden), nn.Linear(last, hidden, bias=False), nn.Linear(hidden, last)), [index]


def token_mixing(c: Chosen) -> Step:
    """MLP-Mixer's and gMLP's ways to mix tokens."""
    index, (_, tokens, last) = c.of_dim(3)
    mixed: Form = lambda x, norm, across: x + across(norm(x).transpose(1, 2)).transpose(1, 2)  # noqa: E731

    def spatial_gate(x: Tensor, into: nn.Module, across: nn.Module, out: nn.Module) -> Tensor:
        kept, gate = into(x).chunk(2, dim=-1)
        return out(kept * across(gate.transpose(-1, -2)).transpose(-1, -2))

    if c.flag():
        return Call(mixed, nn.LayerNorm(last), nn.Linear(tokens, tokens)), [index]
    return Call(spatial_gate, nn.Linear(last, 6), nn.Linear(tokens, tokens), nn.Linear(3, last)), [index]


def class_token(c: Chosen) -> Step:
    index, (_, tokens, last) = c.of_dim(3)
    front: Form = lambda x, token: torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1)  # noqa: E731
    back: Form = lambda x, token: torch.cat([x, token.repeat(x.size(0), 1, 1)], 1)  # noqa: E731
    position: Form = lambda x, embedding: x + embedding  # noqa: E731
    resized: Form = lambda x, embedding: x + embedding[:, :, :tokens].transpose(1, 2)  # noqa: E731
    made = [
        Owned(front, 1, 1, last),
        Owned(back, 1, 2, last),
        Owned(position, 1, tokens, last),
        Owned(position, tokens, last),
        Owned(resized, 1, last, tokens + 2),
    ]
    return c.one_of(made), [index]


def scaled(c: Chosen) -> Step:
    index, (_, tokens, last) = c.of_dim(3)
    form: Form = lambda x, scale: x * scale  # noqa: E731
    return Owned(form, *c.one_of([(last,), (tokens, 1), (1, 1, last), ()])), [index]


def turned(c: Chosen) -> Step:
    index, (_, tokens, last) = c.of_dim(3)
    size = round(tokens**0.5)
    forms: list[Form] = [
        lambda x: x.transpose(1, 2),
        lambda x: x.mT,
        lambda x: x.permute(0, 2, 1).contiguous(),
        lambda x: x.unsqueeze(1),
        lambda x: x[..., None],
        lambda x: x.transpose(1, 2).unflatten(2, (size, size)),
        lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, size, size),
        lambda x: x.view(x.shape[0], size, size, last).permute(0, 3, 1, 2),
        lambda x: x.reshape(-1, last).sigmoid().reshape(x.shape),
    ]
    return Call(c.one_of(forms)), [index]


def pooled(c: Chosen) -> Step:
    forms: list[Form] = [
        lambda x: x.mean(1),
        lambda x: x[:, 0],
        lambda x: x[:, 1:].mean(dim=1),
        lambda x: x.select(1, -1),
        lambda x: x.amax(-1),
        lambda x: x.mean(-1),
        lambda x: x.flatten(1),
        lambda x: torch.cat([x[:, 0], x[:, 1:].mean(1)], -1),
        lambda x: x.transpose(1, 2).mean(-1).flatten(1),
        lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1).squeeze(-1),
        lambda x: (x * x.softmax(1)).sum(1),
    ]
    return Call(c.one_of(forms)), [c.of_dim(3)[0]]


def neighbours(c: Chosen) -> Step:
    """Pooling, padding and resizing of what has three dimensions; two of them may be taken for a height and a width."""
    index, _ = c.of_dim(3)
    forms: list[Form] = [
        lambda x: F.avg_pool1d(x, 3, 1, 1),
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.lp_pool1d(x, 2.0, 2),
        lambda x: F.adaptive_max_pool1d(x, 2),
        lambda x: F.adaptive_avg_pool2d(x, (x.shape[1], 2)),
        lambda x: F.interpolate(x, scale_factor=2.0),
        lambda x: F.interpolate(x.transpose(1, 2), size=5, mode="linear").transpose(1, 2),
        lambda x: F.pad(x, (1, 1)),
        lambda x: F.pad(x, (0, 0, 1, 0)),
        lambda x: F.pad(x, (0, 0, 1, 1), value=1.0),
        lambda x: x * x.mean(1, keepdim=True),
        lambda x: F.normalize(x, dim=-1),
        lambda x: x.softmax(-1),
        lambda x: x - x.mean(-1, keepdim=True),
        # Over a single channel torch's einsum is no product of matrices, and counted as no MACs.
        lambda x: torch.einsum("nlc,nmc->nlm", x, x) if x.shape[-1] > 1 else x,
        lambda x: torch.baddbmm(x, x @ x.transpose(1, 2) / 4, x),
    ]
    return c.one_of([nn.MaxPool1d(3, 1, 1), nn.MaxPool2d(3, 1, 1), nn.ZeroPad2d(1), *map(Call, forms)]), [index]


STEPS = [
    linear, linear, convolution_1d, depthwise_on_grid, norm, perceptron, gated_perceptron, token_mixing, class_token,
    scaled, turned, turned, pooled, neighbours,
]  # fmt: skip
