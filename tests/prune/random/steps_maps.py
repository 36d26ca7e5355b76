"""Steps on feature maps (N, C, H, W)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.prune.random.steps import Call, Chosen, DoesNotFitError, Form, Owned, Step


def convolution(c: Chosen) -> Step:
    index, (_, cin, height, _) = c.of_dim(4)
    cout, size = c.number(1, 6), c.one_of([1, 3])
    settings = {"bias": c.flag(), "padding": size // 2, "stride": 1 if height < 4 else c.one_of([1, 1, 2])}
    kind = c.one_of([nn.Conv2d] * 5 + [nn.ConvTranspose2d])
    return nn.Sequential(kind(cin, cout, size, **settings), c.norm(cout), c.activation()), [index]


def depthwise(c: Chosen) -> Step:
    index, (_, channels, _, _) = c.of_dim(4)
    kind, outputs = c.one_of([nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d]), channels * c.number(1, 2)
    layer = kind(channels, outputs, 3, padding=1, groups=channels, bias=c.flag())
    return nn.Sequential(layer, c.norm(outputs)), [index]


def grouped(c: Chosen) -> Step:
    index, (_, channels, _, _) = c.of_dim(4)
    groups = c.divisor(channels)
    kind, outputs = c.one_of([nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d]), groups * c.number(1, 3)
    layer = kind(channels, outputs, c.one_of([1, 3]), padding=0, groups=groups, bias=c.flag())
    return nn.Sequential(layer, c.norm(outputs), c.activation()), [index]


def inverted_residual(c: Chosen) -> Step:
    index, (_, channels, _, _) = c.of_dim(4)
    wide = 2 * channels
    layers = nn.Sequential(
        nn.Conv2d(channels, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU6(),
        nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        nn.Conv2d(wide, channels, 1),
    )
    return Call(lambda x, layers: x + layers(x), layers), [index]


def dense_block(c: Chosen) -> Step:
    index, (_, channels, _, _) = c.of_dim(4)
    layers = [nn.BatchNorm2d(channels), nn.Conv2d(channels, 2, 3, padding=1)]
    return Call(lambda x, norm, conv: torch.cat([x, conv(norm(x).relu())], 1), *layers), [index]


def squeeze_and_excitation(c: Chosen) -> Step:
    index, (_, channels, _, _) = c.of_dim(4)
    kept: list[Form] = [
        lambda x, a, b: x * b(a(x.mean((2, 3), keepdim=True)).relu()).sigmoid(),
        lambda x, a, b: x * F.hardsigmoid(b(F.relu(a(F.adaptive_avg_pool2d(x, 1))))).expand_as(x),
    ]
    flat: list[Form] = [
        lambda x, a, b: x * b(a(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None],
        lambda x, a, b: x * b(a(x.mean((2, 3))).relu()).sigmoid().view(x.shape[0], -1, 1, 1),
        lambda x, a, b: x * b(a(x.mean((2, 3))).relu()).sigmoid().unsqueeze(-1).unsqueeze(2).expand_as(x),
        lambda x, a, b: b(a(F.adaptive_avg_pool2d(x, 1).view(x.size(0), x.size(1)))).view(-1, channels, 1, 1) * x,
    ]
    if c.flag():
        return Call(c.one_of(kept), nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)), [index]
    return Call(c.one_of(flat), nn.Linear(channels, 2), nn.Linear(2, channels)), [index]


def efficient_channel_attention(c: Chosen) -> Step:
    index, _ = c.of_dim(4)

    def form(x: Tensor, conv: nn.Module) -> Tensor:
        return x * conv(x.mean((2, 3))[:, None]).sigmoid().view(x.shape[0], -1, 1, 1)

    return Call(form, nn.Conv1d(1, 1, 3, padding=1, bias=c.flag())), [index]


def lone_norm(c: Chosen) -> Step:
    index, (_, channels, _, _) = c.of_dim(4)
    if c.flag():
        return c.norm(channels), [index]

    def by_hand(x: Tensor, scale: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return scale[:, None, None] * (centred / (centred.pow(2).mean(1, keepdim=True) + 1e-3).sqrt())

    permuted: Form = lambda x, norm: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # noqa: E731
    norm = c.one_of([nn.LayerNorm, nn.RMSNorm, nn.LayerNorm])(channels)
    return c.one_of([Call(permuted, norm), Owned(by_hand, channels)]), [index]


def channel_shuffle(c: Chosen) -> Step:
    index, (_, channels, height, width) = c.of_dim(4)
    groups = c.divisor(channels)

    def written_out(x: Tensor) -> Tensor:
        batch, count, height, width = x.size()
        x = x.view(batch, groups, count // groups, height, width).transpose(1, 2).contiguous()
        return x.view(batch, -1, height, width)

    forms: list[Form] = [
        written_out,
        lambda x: F.channel_shuffle(x, groups),
        lambda x: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2),
        lambda x: x.reshape(x.shape[0], groups, -1, height, width).permute(0, 2, 1, 3, 4).reshape(x.shape),
    ]
    return c.one_of([nn.ChannelShuffle(groups), *map(Call, forms)]), [index]


def pixel_shuffle(c: Chosen) -> Step:
    index, (_, channels, height, width) = c.of_dim(4)

    def up(x: Tensor) -> Tensor:
        batch, count, height, width = x.shape
        x = x.view(batch, count // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, count // 4, height * 2, width * 2)

    def down(x: Tensor) -> Tensor:
        batch, count, height, width = x.shape
        x = x.reshape(batch, count, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(batch, count * 4, height // 2, width // 2)

    if height % 2 == width % 2 == 0 and c.flag():
        return c.one_of([nn.PixelUnshuffle(2), Call(lambda x: F.pixel_unshuffle(x, 2)), Call(down)]), [index]
    shuffled = c.one_of([nn.PixelShuffle(2), Call(lambda x: F.pixel_shuffle(x, 2)), Call(up)])
    return nn.Sequential(nn.Conv2d(channels, 4 * c.number(1, 3), 1), c.activation(), shuffled), [index]


def pooling(c: Chosen) -> Step:
    index, _ = c.of_dim(4)
    forms: list[Form] = [
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
        lambda x: F.lp_pool2d(x, 2.0, 2),
        lambda x: F.adaptive_max_pool2d(x, (2, 1)),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    ]
    layers = [nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d((1, 2))]
    return c.one_of([*layers, nn.LPPool2d(2, 2), *map(Call, forms)]), [index]


def resizing(c: Chosen) -> Step:
    index, _ = c.of_dim(4)
    forms: list[Form] = [
        lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
        lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, size=(3, 5), mode="bicubic"),
        lambda x: F.interpolate(x, size=(3, 3), mode="area"),
        lambda x: F.pad(x, (1, 0, 1, 0)),
        lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect"),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
        lambda x: F.pad(x, (0, 0, 1, 0, 0, 1), value=0.5),
        lambda x: F.pad(x, (0, -1, 0, -1)),
    ]
    return c.one_of([nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.ReflectionPad2d(1), *map(Call, forms)]), [index]


def resized_like(c: Chosen) -> Step:
    def resize(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([F.interpolate(a, size=b.shape[-2:], mode="nearest"), b], 1)

    return Call(resize), c.pair(lambda a, b: a.dim() == b.dim() == 4)


def reshaped(c: Chosen) -> Step:
    """Reshapes that keep channels whole, or put groups of them into a dimension of their own for a while."""
    index, (_, channels, height, width) = c.of_dim(4)
    groups = c.divisor(channels)
    forms: list[Form] = [
        lambda x: x.flatten(2).softmax(-1).view(x.shape),
        lambda x: x.reshape(x.shape[0], x.shape[1], -1).cumsum(2).unflatten(2, (height, width)),
        lambda x: x.view(x.shape[0], groups, -1, height, width).mean(1),
        lambda x: x.unflatten(1, (groups, -1)).softmax(1).sum(2),
        lambda x: x.view(x.shape[0], -1, groups, height, width).flip(2).flatten(1, 2),
        lambda x: x.view(x.shape[0] * groups, -1, height, width).mul(2).view(x.shape[0], -1, height, width),
        lambda x: x.view(x.shape[0], 1, -1, width),
        lambda x: x.flatten(0, 1).mean((1, 2)).view(x.shape[0], channels, 1, 1) + x,
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    ]
    return Call(c.one_of(forms)), [index]


def mixing_channels(c: Chosen) -> Step:
    """Operators that read all channels without a layer."""
    index, (_, channels, _, _) = c.of_dim(4)
    forms: list[Form] = [
        lambda x: x.softmax(1),
        lambda x: F.normalize(x, dim=1),
        lambda x: x * x.mean(1, keepdim=True),
        lambda x: x + x.amax(1, keepdim=True).sigmoid(),
        lambda x: x * torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1).mean(1, keepdim=True),
        lambda x: x - x.mean(dim=(2, 3))[..., None, None],
        lambda x: x + F.adaptive_max_pool2d(x, 1),
        lambda x: x * x.flatten(1).mean(1)[:, None, None, None],
        lambda x: x + x[:, :1],
        lambda x: x.cumsum(1),
        lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
        lambda x: torch.einsum("nchw,ndhw->ncd", x, x) / 8,
        lambda x: torch.einsum("nchw,nc->nhw", x, x.mean((2, 3)))[:, None] * x,
    ]
    own: Form = lambda x, weight: F.conv2d(x, weight[:, :, None, None] - 1)  # noqa: E731
    table: Form = lambda x, weight: torch.einsum("nchw,dc->ndhw", x, weight - 1)  # noqa: E731
    return c.one_of([*map(Call, forms), Owned(own, 3, channels), Owned(table, 2, channels)]), [index]


def scaled(c: Chosen) -> Step:
    """Parameters that no layer owns, one a channel, one a place, or one at all."""
    index, (_, channels, height, width) = c.of_dim(4)
    shapes = [(1, channels, 1, 1), (channels, 1, 1), (), (1,), (channels, height, width), (1, 1, height, width)]
    product: Form = lambda x, scale: x * scale  # noqa: E731
    total: Form = lambda x, offset: offset + x  # noqa: E731
    return c.one_of([Owned(c.one_of([product, total]), *c.one_of(shapes)), nn.PReLU(channels), nn.PReLU()]), [index]


def convnext_block(c: Chosen) -> Step:
    index, (_, channels, _, _) = c.of_dim(4)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            self.norm, self.wide = nn.LayerNorm(channels), nn.Linear(channels, 2 * channels)
            self.narrow, self.gamma = nn.Linear(2 * channels, channels), nn.Parameter(torch.rand(channels))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
            return x + (self.gamma * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)

    return Block(), [index]


def channels_last(c: Chosen) -> Step:
    """Layers on the last dimension: of a map put that way, or of whatever stands last."""
    index, shape = c.of_dim(4)
    there, back = c.flag(), c.flag()
    channels, outputs = shape[1] if there else shape[-1], c.number(1, 6)
    norm = c.one_of([nn.Identity, nn.LayerNorm, nn.RMSNorm])(outputs)

    def form(x: Tensor, linear: nn.Module, norm: nn.Module) -> Tensor:
        y = norm(linear(x.permute(0, 2, 3, 1) if there else x)).relu()
        return y.permute(0, 3, 1, 2) if back else y

    return Call(form, nn.Linear(channels, outputs, bias=c.flag()), norm), [index]


def patches(c: Chosen) -> Step:
    """Patchify by reshape; patch merging as in Swin, by slices and by reshape. Makes tokens or a grid."""
    index, (_, channels, height, width) = c.of_dim(4)
    if height % 2 or width % 2:
        raise DoesNotFitError

    def patchified(x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], channels, height // 2, 2, width // 2, 2)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(x.shape[0], -1, 4 * channels)

    def by_slices(x: Tensor) -> Tensor:
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, width % 2, 0, height % 2))
        top, bottom = x[..., 0::2, :, :], x[..., 1::2, :, :]
        return torch.cat([top[..., 0::2, :], bottom[..., 0::2, :], top[..., 1::2, :], bottom[..., 1::2, :]], -1)

    def by_reshape(x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = x.reshape(x.shape[0], height // 2, 2, width // 2, 2, channels)
        return x.permute(0, 1, 3, 4, 2, 5).flatten(3)

    def focus(x: Tensor) -> Tensor:
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        return x.permute(0, 2, 3, 1)

    form = c.one_of([patchified, by_slices, by_reshape, focus])
    layers = [nn.LayerNorm(4 * channels), nn.Linear(4 * channels, 2 * channels, bias=False)]
    step = nn.Sequential(Call(form), *(layers if c.flag() else reversed([nn.LayerNorm(2 * channels), layers[1]])))
    return (nn.Sequential(step, Call(lambda x: x.movedim(-1, 1))) if c.flag() else step), [index]


def to_tokens(c: Chosen) -> Step:
    forms: list[Form] = [
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]),
        lambda x: x.permute(0, 2, 3, 1).flatten(1, 2),
        lambda x: x.flatten(2),
        lambda x: x.mean(3),
        lambda x: x.mean(2).transpose(1, 2),
    ]
    return Call(c.one_of(forms)), [c.of_dim(4)[0]]


STEPS = [
    convolution, convolution, convolution, depthwise, depthwise, grouped, grouped, inverted_residual, dense_block,
    squeeze_and_excitation, efficient_channel_attention, lone_norm, channel_shuffle, pixel_shuffle, pooling, resizing,
    resized_like, reshaped, mixing_channels, scaled, convnext_block, channels_last, patches, to_tokens,
]  # fmt: skip
