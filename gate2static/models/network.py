"""The ordinary network that the gated one is compared with: one backbone, a head per task."""

from collections.abc import Mapping

from torch import Tensor, nn


class MultiTaskNetwork(nn.Module):
    """One backbone and one head per task: with one task the single-task network, with all the shared one."""

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, C, H, W) to every task's output."""
        features = self.backbone(x)
        return {name: head(features) for name, head in self.heads.items()}
