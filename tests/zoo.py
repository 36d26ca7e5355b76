"""Networks to prune, gates to set, and the two oracles: the gated network's own output and fvcore's count."""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree
from torchvision.models.vgg import make_layers

from gate2static.gates import GatedModel, gate, set_gates
from gate2static.models.backbones.resnet20 import ResNet20
from gate2static.prune import Layout, expected_macs
from gate2static.prune.analyse import analyse
from gate2static.prune.emission.layout import LAYOUT
from gate2static.prune.emit import emit
from gate2static.prune.plan import ChannelPlan, keep_needed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis

TASKS = ("a", "b", "c", "d", "e")


class TwoScales(nn.Module):
    """A stem without a norm, a residual block, a strided block with a shortcut; features of both scales."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.fine = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width))
        self.shortcut = nn.Conv2d(width, 2 * width, 1, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stem = torch.relu(self.stem(x))
        low = self.fine(stem) + stem
        return {"low": low, "high": torch.relu(self.down(low) + self.shortcut(low))}


class ManyRules(nn.Module):
    """Something for every rule: norms apart from their layer, concatenation, products, flattening, a barrier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1, bias=False)
        self.norm, self.later_norm = nn.BatchNorm2d(6), nn.BatchNorm2d(12)
        self.third, self.depthwise = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.gate, self.linear = nn.Linear(8, 8), nn.Linear(8 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.first(x))
        both = torch.cat([first, self.norm(self.second(first))], 1)
        third = nn.functional.max_pool2d(self.third(torch.relu(self.later_norm(both))), 2)
        third = third + self.depthwise(third) + third.softmax(1)
        third = third * torch.sigmoid(self.gate(third.mean((2, 3))))[:, :, None, None]
        return self.linear(nn.functional.adaptive_avg_pool2d(third, 2).flatten(1))


class TokenRules(nn.Module):
    """Something for every rule of transformers: grouped layers, norms over channels, windows, heads, a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 12, 3, 1, 1, groups=2)
        self.group_norm, self.depthwise = nn.GroupNorm(4, 12), nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.norm, self.qkv, self.project = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.token, self.gamma = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.rand(12) + 0.5)
        self.bias = nn.Parameter(torch.randn(1, 3, 5, 5))
        self.second_norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 16), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(torch.relu(self.group_norm(self.expand(self.stem(x)))))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        x = x.permute(0, 2, 3, 1).roll((1, 1), (1, 2)).view(batch, height // 2, 2, width // 2, 2, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        q, k, v = self.qkv(self.norm(x)).view(-1, 5, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * 0.5 @ k.transpose(-2, -1) + self.bias).softmax(-1)
        half = nn.functional.scaled_dot_product_attention(q, k, v) + attention @ v
        x = x + self.gamma * self.project(half.transpose(1, 2).flatten(2))
        value, gate = self.up(self.second_norm(x)).chunk(2, -1)
        x = (x + self.down(value * gate.sigmoid()))[:, 1:]
        return nn.functional.pixel_shuffle(x.reshape(batch, -1, 12).transpose(1, 2).unflatten(2, (height, width)), 2)


def densenet() -> nn.Module:
    """Two dense blocks of two layers and the transition between them: every joint that more of them have."""
    return torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10)


def vgg() -> nn.Module:
    """A chain: pooling between layers, and two layers in a row."""
    return make_layers([16, "M", 32, 32, "M"], batch_norm=True)


def resnet12() -> nn.Module:
    """A ResNet-20 with two blocks in the first and second stage and one in the third: outputs of three scales."""
    network = ResNet20(width=0.5)
    network.stage1, network.stage2, network.stage3 = network.stage1[:2], network.stage2[:2], network.stage3[:1]
    return network


def resnet6() -> nn.Module:
    """Torchvision's own up to its second stage: a pooled stem, a plain shortcut, one with a layer, a classifier."""
    network = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    network.layer3 = network.layer4 = nn.Identity()
    network.fc = nn.Linear(128, 10)
    return network


BACKBONES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet12": (resnet12, 16),
    "resnet6": (resnet6, 32),
    "vgg": (vgg, 16),
    "densenet": (densenet, 32),
    "two_scales": (TwoScales, 12),
    "many_rules": (ManyRules, 8),
    "token_rules": (TokenRules, 8),
}
"""Name -> the network and the size of its images."""


class Pooled(nn.Module):
    """A head: every feature map averaged, concatenated, one linear layer."""

    def __init__(self, channels: int, outputs: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)

    def forward(self, features: Any) -> Tensor:
        pooled = [f.mean((2, 3)) if f.dim() == 4 else f for f in pytree.tree_leaves(features)]
        return self.linear(torch.cat(pooled, 1))


def pooled_head(backbone: nn.Module, inputs: tuple[Tensor, ...]) -> Pooled:
    with torch.no_grad():
        leaves = pytree.tree_leaves(backbone.eval()(*inputs))
    return Pooled(sum(leaf.shape[1] for leaf in leaves))


def randomise(gated: GatedModel, p: float = 0.5) -> GatedModel:
    """Every stream its own weights and statistics, gates open with probability p, mixing weights spread; eval mode."""
    with torch.no_grad():
        for module in gated.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(std=0.2)
        for parameter in [*gated.encoder.branches.parameters(), *gated.heads.parameters()]:
            # Scales and shifts of norms start all alike.
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            parameter.add_(torch.randn_like(parameter) * 0.3 * (spread or 1.0))
        for unit in gated.gates.values():
            unit.alpha.copy_(torch.where(torch.rand_like(unit.alpha) < p, 1.0, -1.0))
            unit.beta.normal_()
    return gated.eval()


def make_backbone(name: str) -> tuple[nn.Module, Tensor]:
    """A network and a batch of two images."""
    factory, size = BACKBONES[name]
    return factory().eval(), torch.randn(2, 3, size, size)


def make_gated(name: str, tasks: int = 2, p: float = 0.5, **options: Any) -> tuple[GatedModel, Tensor]:
    """A gated network with everything random, in eval mode, and a batch of two images."""
    backbone, x = make_backbone(name)
    heads = {task: pooled_head(backbone, (x,)) for task in TASKS[:tasks]}
    gated = gate(backbone, tasks=TASKS[:tasks], example_inputs=(x,), heads=heads, **options)
    return randomise(gated, p), x


def one_channel(gated: GatedModel) -> None:
    """All gates shared but one: the first task's first channel, halfway down."""
    set_gates(gated, False)
    units = list(gated.gates.values())
    with torch.no_grad():
        units[len(units) // 2].alpha[0, 0] = 1.0


def one_task(gated: GatedModel) -> None:
    """All gates of the first task open, all others shared."""
    set_gates(gated, False)
    with torch.no_grad():
        for unit in gated.gates.values():
            unit.alpha[0] = 1.0


def random_gates(gated: GatedModel, p: float) -> None:
    with torch.no_grad():
        for unit in gated.gates.values():
            unit.alpha.copy_(torch.where(torch.rand_like(unit.alpha) < p, 1.0, -1.0))


PATTERNS: dict[str, Callable[[GatedModel], None]] = {
    "random_0.1": lambda gated: random_gates(gated, 0.1),
    "random_0.5": lambda gated: random_gates(gated, 0.5),
    "one_channel": one_channel,
    "one_task": one_task,
}


def counted_macs(network: nn.Module, inputs: tuple[Any, ...]) -> int:
    """MACs of one sample by fvcore; it counts one a multiply-accumulate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = FlopCountAnalysis(network, pytree.tree_map(lambda x: x[:1], inputs))
        counts.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        found = counts.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    return int(sum(found[name] for name in ("conv", "linear", "addmm", "matmul", "bmm", "attention")))


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """Fvcore does not know attention as one operator: two products a head."""
    query, key, value = (x.type().sizes() for x in inputs[:3])
    return {"attention": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])}


@torch.no_grad()
def relative_error(expected: Iterable[Tensor], found: Iterable[Tensor]) -> float:
    """The worst over the outputs, each relative to its scale; NaN counts as infinitely far."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        error = float((a - b).abs().max() / a.abs().max().clamp(min=1e-3))
        worst = max(worst, error if error == error else float("inf"))
    return worst


@torch.no_grad()
def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    """All tensors that a network returns."""
    return pytree.tree_leaves(network(x))


def planned(gated: GatedModel, align: int = 1) -> ChannelPlan:
    """The channels that pruning keeps."""
    return keep_needed(analyse(gated), align=align)


def check_exact(gated: GatedModel, x: Tensor, layout: Layout = LAYOUT) -> nn.Module:
    """The static network, which equals the gated one in float64 and costs what was predicted."""
    channels = planned(gated)
    static = emit(channels, layout)
    assert relative_error(outputs(gated, x), outputs(static, x)) <= 1e-9
    assert int(expected_macs(gated)) == channels.macs() == counted_macs(static, (x,))
    return static
