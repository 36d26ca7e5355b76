"""Torch-Pruning's dependency graph and pruned networks as an independent oracle for ours.

The two libraries answer related questions. Torch-Pruning is told to remove channels of one layer, and finds every layer
coupled to it: what feeds the same sum or concatenation, what works channel by channel, what reads the channels. Here
nobody removes channels; those that no head reads are dead, and what only dead channels need goes with them. The two
must agree where a head stops reading exactly the channels that Torch-Pruning removes, with one difference that is
right: Torch-Pruning removes a residual stream's channel also where another layer reads it (and so changes the
function), while we keep what is read.

Torch-Pruning is asked about one plain network; the gated network has one task, whose gates are all open or all closed.
"""

import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gate2static.gates import gate, set_gates
from gate2static.prune import prune
from gate2static.static import StaticModel
from tests import zoo

pytestmark = pytest.mark.slow

Channels = dict[str, set[int]]
"""Layer -> output channels."""


@pytest.fixture(scope="module")
def tp() -> Iterator[ModuleType]:
    """Torch-Pruning; it warns about pickles and about what it cannot classify."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning

        yield torch_pruning


class Branches(nn.Module):
    """A concatenation of a depth-wise chain and of a sum, read channel by channel before it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12))
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(18)
        self.last = nn.Conv2d(18, 18, 3, padding=1, groups=18)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        both = torch.cat([self.depthwise(self.wide(x)), self.left(x) + self.right(x)], 1)
        return self.last(torch.relu(self.norm(both)))


def _mobilenet() -> nn.Module:
    """The start of a MobileNetV2 up to a depth-wise convolution, with the expansion before it."""
    features = torchvision.models.mobilenet_v2().features
    return nn.Sequential(*features[:3], features[3].conv[:2])


class ResNet(nn.Module):
    """Torchvision's, with one block in its first stage and two in its second, the last, and without a head."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 2, 1, 1])
        self.net.layer3 = self.net.layer4 = self.net.avgpool = self.net.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer2(net.layer1(x))


class Head(nn.Module):
    """A linear layer on the mean of some channels."""

    def __init__(self, kept: list[int]) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(len(kept), 2), kept

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.mean((2, 3))[:, self.kept])


class Plain(nn.Module):
    """A backbone and a head on all its channels, as Torch-Pruning sees it."""

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).mean((2, 3)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "vgg": (zoo.vgg, "7"),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 16).features, "denseblock2.denselayer2.conv2"),
    "mobilenet_v2 to a depth-wise layer": (_mobilenet, "3.0.0"),
    "mobilenet_v2 to a shortcut": (lambda: torchvision.models.mobilenet_v2().features[:4], "3.conv.2"),
    "a concatenation after a depth-wise layer": (Branches, "wide.0"),
    "a concatenation after a sum": (Branches, "right"),
    "resnet": (ResNet, "net.layer2.1.conv2"),
}
"""Name -> a network that returns its last feature map, and the layer to take channels from."""


@pytest.mark.parametrize("specific", [True, False], ids=["specific", "shared"])
@pytest.mark.parametrize("name", NETWORKS)
def test_channels_that_no_head_reads_go_from_all_layers_that_torch_pruning_couples(
    name: str, specific: bool, tp: ModuleType
) -> None:
    make, layer = NETWORKS[name]
    backbone, x = make().eval(), torch.randn(2, 3, 32, 32)
    channels = backbone(x).shape[1]
    plain = Plain(backbone, channels)
    graph = tp.DependencyGraph().build_dependency(plain, example_inputs=x)
    root = backbone.get_submodule(layer)
    group = graph.get_pruning_group(root, tp.prune_conv_out_channels, idxs=[1, 2, 5])
    coupled, unread = _outputs_in(group, backbone), _inputs_in(group, plain.head)
    static = _pruned(backbone, Head([c for c in range(channels) if c not in unread]), x, specific)
    gone = _gone(backbone, static)
    assert gone[layer] == {1, 2, 5}
    for found, expected in coupled.items():
        # The one difference: what another layer of the backbone reads stays, for its sake.
        stays = _is_read_by_a_layer(graph, graph.module2node[backbone.get_submodule(found)], plain.head)
        assert gone.pop(found) == (set() if stays else expected), found
    assert not any(gone.values())


def _outputs_in(group: Any, backbone: nn.Module) -> Channels:
    """Layer -> the output channels that a group of Torch-Pruning's removes."""
    names, removed = {module: name for name, module in backbone.named_modules()}, {}
    for dependency, indices in group:
        name = names.get(dependency.target.module)
        if name is not None and "out_channels" in dependency.handler.__name__:
            removed.setdefault(name, set()).update(indices)
    return removed


def _inputs_in(group: Any, layer: nn.Module) -> set[int]:
    """The input channels of one layer that a group removes."""
    return {
        i for d, indices in group if d.target.module is layer and "in_channels" in d.handler.__name__ for i in indices
    }


def _is_read_by_a_layer(graph: Any, node: Any, head: nn.Module) -> bool:
    """Whether a channel reaches a layer that mixes channels, other than the head, in Torch-Pruning's own graph."""
    following = [user for user in node.outputs if user.module is not head]
    return any(_mixes_channels(user.module) or _is_read_by_a_layer(graph, user, head) for user in following)


def _mixes_channels(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1


def _classifier(features: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


PRUNED = {
    "resnet": lambda: _classifier(ResNet(), 128),
    "vgg": lambda: _classifier(zoo.vgg(), 32),
    "mobilenet_v2": lambda: _classifier(torchvision.models.mobilenet_v2(width_mult=0.5).features[:5], 16),
    "densenet": zoo.densenet,
}


@pytest.mark.parametrize("name", PRUNED)
def test_a_network_that_torch_pruning_pruned_stays_as_it_is(name: str, tp: ModuleType) -> None:
    """Odd channel counts all over, and nothing dead: one task's static network is the pruned network to the unit."""
    torch.manual_seed(0)
    network, x = PRUNED[name]().eval(), torch.randn(1, 3, 32, 32)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)]
    importance = tp.importance.RandomImportance()
    tp.pruner.BasePruner(network, x, importance=importance, pruning_ratio=0.3, ignored_layers=last).step()
    shapes = sorted(tuple(p.shape) for p in network.parameters())
    for specific in (True, False):
        static = _pruned(network, nn.Identity(), x, specific)
        assert sorted(tuple(p.shape) for p in static.parameters()) == shapes
        assert not any(_gone(network, static).values())
        assert static.manifest.macs.static == zoo.counted_macs(network, (x.double(),))


def _pruned(backbone: nn.Module, head: nn.Module, x: Tensor, specific: bool) -> StaticModel:
    """The static network of one task; every weight of the backbone is a number of its own, so that `_gone` sees it."""
    with torch.no_grad():
        start = 0
        for parameter in backbone.double().parameters():
            parameter.copy_(torch.arange(start, start + parameter.numel()).view(parameter.shape))
            start += parameter.numel()
        for parameter in head.double().parameters():
            parameter.fill_(-1.0)
    gated = gate(backbone, tasks=["a"], example_inputs=(x.double(),), heads={"a": head})
    set_gates(gated, specific)
    return prune(gated.eval())


def _gone(backbone: nn.Module, static: StaticModel) -> Channels:
    """Layer -> its output channels of which the static network has no weight; of the others it has whole rows."""
    found = torch.cat([p.detach().flatten() for p in static.parameters()]).long()
    kept = torch.zeros(sum(p.numel() for p in backbone.parameters()), dtype=torch.bool)
    kept[found[found >= 0]] = True
    gone = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            alive = kept[module.weight.long()].view(len(module.weight), -1)
            assert torch.equal(alive.any(1), alive.all(1)), f"{name} has lost inputs"
            gone[name] = set((~alive.all(1)).nonzero().flatten().tolist())
    return gone
