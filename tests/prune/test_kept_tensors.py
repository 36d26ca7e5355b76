"""Modules that keep what they computed from their parameters: hooks of old norms, masks, and caches of a forward."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from gate2static.errors import TraceError
from gate2static.gates import GatedModel, gate, set_gates
from gate2static.prune import prune
from gate2static.verify import verify

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)).relu())


class Caches(Net):
    """Keeps in eval mode what it computed from a parameter, as LeViT, TinyViT and EfficientFormerV2 of timm do."""

    clears = True

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(6))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Any:
        if mode and self.clears:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.clears:
            return super().forward(x) + self.bias.exp().view(1, -1, 1, 1)
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias.exp()
        return super().forward(x) + self.cache["bias"].view(1, -1, 1, 1)


class NeverClears(Caches):
    clears = False


class KeepsForLater(Net):
    """Keeps a tensor that it computes anew in each call."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = [self.first.weight * 2]
        return super().forward(x) + self.kept[0].sum()


def _wrapped(layer: Callable[[nn.Conv2d], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = Net()
        net.second = layer(net.second)  # type: ignore[assignment]
        return net

    return make


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": _wrapped(nn.utils.weight_norm),
    "spectral_norm": _wrapped(nn.utils.spectral_norm),
    "mask": _wrapped(lambda layer: masks.l1_unstructured(layer, "weight", 0.3)),
    "mask of channels": _wrapped(lambda layer: masks.ln_structured(layer, "weight", 0.3, n=2, dim=0)),
    "cache": Caches,
    "kept": KeepsForLater,
}


def make(backbone: nn.Module) -> GatedModel:
    return gate(backbone, tasks=["a", "b"], example_inputs=(X,), heads={t: nn.Conv2d(6, 2, 1) for t in "ab"})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated", "ignore:.*WeightNorm.* is deprecated")
def test_what_is_kept_hinders_neither_training_nor_pruning(name: str, ran_before: bool) -> None:
    """Used to be refused: after the first step by `prune`, or in `gate` where the backbone had run in eval mode."""
    torch.manual_seed(0)
    backbone = NETWORKS[name]().eval()
    if ran_before:
        backbone(X)
    gated = make(backbone)
    gated.train()(X)["a"].square().mean().backward()
    trained = [p.grad is not None for p in gated.branches["a"].parameters()]
    assert all(trained)
    assert len(trained) == len(list(backbone.parameters()))
    with torch.no_grad():
        for parameter in gated.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    gated.eval()(X)
    set_gates(gated, {unit: torch.rand_like(g.alpha) < 0.5 for unit, g in gated.gates.items()})
    assert verify(gated, prune(gated)).passed
    torch.testing.assert_close(copy.deepcopy(gated)(X), gated(X))


def test_a_kept_tensor_that_is_never_computed_again_is_refused() -> None:
    """A trace would take it for a constant, and its parameter would not be trained."""
    backbone = NeverClears().eval()
    make(backbone)
    backbone(X)
    with pytest.raises(TraceError, match=r"reads a tensor that an earlier call .* kept, .*gate it before it is called"):
        make(backbone)
