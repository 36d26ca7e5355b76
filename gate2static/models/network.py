"""The ordinary network that gated networks are compared with: one backbone and one head per task."""

from collections.abc import Mapping

from torch import Tensor, nn


class MultiTaskNetwork(nn.Module):
    """One backbone and one head per task: a single-task network with one task, the shared network with all tasks.

    Args:
        backbone: Maps images (N, C, H, W) to features.
        heads: The heads by task; each reads the backbone's features.
    """

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, C, H, W) to a dict of outputs by task."""
        features = self.backbone(x)
        return {name: head(features) for name, head in self.heads.items()}
