"""What searching with random networks, and reading with suspicion, found; each was wrong or refused once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.gates import gate
from gate2static.prune import expected_macs, prune
from tests import zoo
from tests.prune.random.checking import Case, check

pytestmark = pytest.mark.slow


class After(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor] | nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.first, self.between, self.second = nn.Conv2d(3, 4, 1), between, nn.LazyConv2d(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(torch.relu(self.first(x))))


def _check(backbone: nn.Module, heads: dict[str, nn.Module], p: float = 0.5) -> None:
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        backbone(x.clone())  # fills in lazy layers
    gated = gate(backbone.eval(), tasks=list(heads), example_inputs=(x,), heads=heads)
    gated = zoo.randomise(gated, p).double()
    static = prune(gated)
    x = torch.randn(3, 3, 8, 8).double()
    with torch.no_grad():
        assert zoo.relative_error(gated(x).values(), static(x).values()) <= 1e-9
    assert static.manifest.macs.static == int(expected_macs(gated)) == zoo.counted_macs(static, (x,))


class PaddedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        padded = self.pad(x.flatten(2))
        return torch.cat([padded, padded], 1)[:, :, :, None]


class RootMeanSquare(nn.Module):
    """As language models write it: in a wider type, and back."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x) * torch.rsqrt(x.float().pow(2).mean(1, keepdim=True) + 1e-6).to(x.dtype)
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True, dtype=x.dtype) + 1e-6)


class Positions(nn.Module):
    """A layer on a stored grid, repeated for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 1)
        self.register_buffer("grid", torch.rand(1, 2, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(self.grid).repeat(x.shape[0], 1, 1, 1)


BETWEEN: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "a function whose schema is ambiguous": lambda x: torch.lerp(x, x * x, 0.3),
    "a concatenation along a dimension that is computed": lambda x: torch.cat([x, x + 1], dim=1 - x.dim()),
    "2-d padding of channels, read as a height": PaddedTwice(),
    "2-d pooling over channels, read as a height": lambda x: F.max_pool2d(x.flatten(2), 3, 1, 1)[:, :, :, None],
    "a view that merges channels with the batch": lambda x: x.view(-1, 8).softmax(-1).view(x.size(0), 4, 8, 8),
    "a slice of the batch that is all of it while tracing": lambda x: x + x[:2].sum(0, keepdim=True),
    "a fill with a tensor without dimensions": lambda x: x.masked_fill(x > 0.5, torch.tensor(0.25, dtype=x.dtype)),
    "a memory format of more dimensions than are left": lambda x: (
        x.unflatten(1, (2, 2)).flatten(3).contiguous(memory_format=torch.channels_last).reshape(-1, 4, 8, 8)
    ),
    "reads of a type": RootMeanSquare(),
    "a repetition as long as the batch": Positions(),
    "an empty slice": lambda x: torch.cat([x[:, 4:], x[:, :4]], 1),
    "a padding of channels that is nought": lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1)).permute(0, 3, 1, 2),
    "masks joined bit by bit": lambda x: x * ((x > -1) & (x < 1) | (x > 2)),
    "an in-place activation that has a second reader": lambda x: F.relu(x.sub_(0.5), inplace=True) + x,
}


# Torch cannot train the activation in place whose input has a second reader, which `gate` says.
@pytest.mark.filterwarnings("ignore:whether the gated network trains as the backbone does is not known")
@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_the_pruned_network_is_right_after(between: Callable[[Tensor], Tensor] | nn.Module, p: float) -> None:
    _check(After(between), {"a": nn.Conv2d(5, 2, 1), "b": nn.Identity()}, p)


@pytest.mark.parametrize(
    "parametrize", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_a_parametrised_layer_is_no_plain_one(parametrize: Callable[[nn.Module], nn.Module]) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), parametrize(nn.Conv2d(4, 6, 1)), nn.ReLU(), nn.Conv2d(6, 4, 1))
    _check(backbone, {"a": nn.Conv2d(4, 2, 1), "b": nn.Identity()})


class Heads(nn.Module):
    """Attention with a table of biases that a stored index reads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.table = nn.Linear(4, 12), nn.Parameter(torch.randn(2, 5))
        self.register_buffer("index", torch.randint(5, (6, 6)))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 6, 3, 2, 2).permute(2, 0, 3, 1, 4)
        return (q @ k.mT + self.table[:, self.index]).softmax(-1).matmul(v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_separate_and_shared_networks_are_counted_apart_from_the_gates(p: float) -> None:
    backbone, x = Heads().eval(), torch.randn(2, 6, 4)
    gated = gate(backbone, tasks=["a", "b"], example_inputs=(x,), heads={"a": nn.Identity(), "b": nn.Linear(4, 2)})
    macs, head = zoo.counted_macs(backbone, (x,)), 6 * 4 * 2
    found = prune(zoo.randomise(gated, p)).manifest.macs
    assert (found.shared, found.separate) == (macs + head, 2 * macs + head)


class WritesIntoItsFeatures(nn.Module):
    """Untraceable for torch.fx, and changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)

    def forward(self, features: Tensor) -> Tensor:
        for channel in range(features.shape[1]):
            features[:, channel].mul_(channel + 1.0)
        return self.norm(self.conv(features.relu_()))


class ViewsItsFeatures(nn.Module):
    """Untraceable for torch.fx, and content with nothing but memory in one piece."""

    def forward(self, features: Tensor) -> Tensor:
        rows = features.view(-1, 8).view(features.shape[0], -1)
        return sum((rows[:, i : i + 1] for i in range(features.shape[1])), torch.zeros(()))


def test_a_head_may_view_its_features_as_it_likes() -> None:
    # All tasks read one layer's output, each a part of it.
    backbone = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU())
    _check(backbone, {"a": ViewsItsFeatures(), "b": ViewsItsFeatures(), "c": nn.Conv2d(5, 1, 1)}, 1.0)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_a_head_that_writes_into_its_features_leaves_those_of_other_heads_alone(p: float) -> None:
    heads = {"a": WritesIntoItsFeatures(), "b": WritesIntoItsFeatures(), "c": nn.Identity()}
    _check(After(nn.Identity()), heads, p)


def test_norms_still_fold_where_a_head_writes_into_its_features() -> None:
    backbone, x = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU()), torch.randn(2, 3, 8, 8)
    gated = gate(backbone, tasks=["a"], example_inputs=(x,), heads={"a": WritesIntoItsFeatures()})
    folded = prune(zoo.randomise(gated)).deployed()
    assert not any("batch_norm" in str(node.target) for node in folded.network.graph.nodes)


class NormalisesInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.sub_(1.0).div_(2.0))


def test_a_backbone_that_writes_into_its_input_is_gated_and_the_example_is_left_alone() -> None:
    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    backbone = NormalisesInPlace()
    gated = gate(backbone, tasks=["a"], example_inputs=(x,), heads={"a": nn.Identity()}).eval()
    assert torch.equal(x, before)
    torch.testing.assert_close(gated(x)["a"], backbone(x.clone()))
    torch.testing.assert_close(prune(gated)(x)["a"], backbone(x.clone()))
    assert torch.equal(x, before)


class Attention(nn.Module):
    """Layers named as in many attention blocks, which are also methods of torch.nn.ModuleDict."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values, self.items = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.items(x) @ self.keys(x).transpose(1, 2)).softmax(-1)
        return weights @ self.values(x)


def test_layers_may_be_called_keys_and_values() -> None:
    x = torch.randn(2, 5, 6)
    gated = gate(Attention(), tasks=["a", "b"], example_inputs=(x,), heads={"a": nn.Identity(), "b": nn.Linear(4, 2)})
    assert list(gated.gates) == ["items", "keys", "values"]
    gated = zoo.randomise(gated).double()
    static = prune(gated)
    assert zoo.relative_error(gated(x.double()).values(), static(x.double()).values()) <= 1e-9
    assert int(expected_macs(gated)) == zoo.counted_macs(static, (x.double(),))


class Defaults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0, *, flip: bool = False) -> Tensor:
        y = self.conv(x) * scale
        y = y if mask is None else y * mask
        return y.flip(-1) if flip else y


def test_arguments_left_at_their_defaults_are_no_inputs_of_the_static_network() -> None:
    x = torch.randn(2, 3, 8, 8)
    gated = gate(Defaults(), tasks=["a"], example_inputs=(x,), heads={"a": nn.Identity()}).eval()
    static = prune(gated)
    assert [spec.name for spec in static.manifest.inputs] == ["x"]
    torch.testing.assert_close(static(x), gated(x))


class MinusMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((2, 3), keepdim=True)


def test_a_backbone_whose_output_is_all_rounding_is_lifted_to_the_same_rounding() -> None:
    layers = (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), MinusMean(), nn.AdaptiveAvgPool2d(1))
    backbone, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 12, 12)
    heads = {task: nn.Identity() for task in "abc"}
    gated = gate(backbone, tasks=list(heads), example_inputs=(x,), heads=heads, gate_init=-1.0, gate_init_std=0.0)
    assert all(torch.equal(output, backbone(x)) for output in gated(x).values())


def test_features_that_are_rounding_errors_are_told_from_a_wrong_trace() -> None:
    # Attention makes the tokens equal but for rounding; the norm over tokens then divides by almost nothing.
    program = (
        ("attention.attention_by_einsum", 6596),
        ("tokens.class_token", 9018),
        ("attention.torch_attention", 743),
        ("tokens.convolution_1d", 4633),
    )
    check(Case(kind="tokens", program=program, heads=("pooled",), p=1.0, seed=881))


def test_ties_end_where_other_numbers_of_channels_are_concatenated() -> None:
    program = (("any.concatenation", 9987),)
    check(Case(kind="vectors", program=program, heads=("tokens",), p=1.0, seed=289, tie_residual=True))
