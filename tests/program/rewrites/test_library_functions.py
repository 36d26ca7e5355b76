"""Functions of einops are followed wherever they stand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gate2static.gates import gate
from gate2static.prune import prune

einops = pytest.importorskip("einops")


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.layer(einops.rearrange(x, "b c (h p) w -> (b p) c h w", p=2))
        return einops.rearrange(rows, "(b p) c h w -> b c (h p) w", p=2)


class Reduced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from einops.layers.torch import Rearrange, Reduce

        self.tokens = Rearrange("b c h w -> b (h w) c")
        self.layer = nn.Linear(8, 8)
        self.mean = Reduce("b n c -> b c", "mean")

    def forward(self, x: Tensor) -> Tensor:
        means = self.mean(self.layer(self.tokens(x)))
        return einops.einsum(x, means, "b c h w, b c -> b c h w") + einops.repeat(means, "b c -> b c h 1", h=12)


@pytest.mark.parametrize("kind", [Patches, Reduced])
def test_functions_of_einops_are_followed_in_submodules(kind: Any) -> None:
    """A submodule that calls them was a barrier, and a root that does was refused with an advice."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), kind(), nn.Conv2d(8, 6, 1)).eval()
    heads = {task: nn.Conv2d(6, 2, 1) for task in ("a", "b")}
    model = gate(backbone, tasks=list(heads), example_inputs=(torch.randn(2, 3, 12, 12),), heads=heads)
    assert not prune(model.eval()).manifest.barriers
    backend = einops.einops.get_backend(torch.ones(1))
    assert backend.shape(torch.ones(3, 2)) == (3, 2), "einops is as it was"
