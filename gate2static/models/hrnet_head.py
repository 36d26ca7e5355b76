"""HRNet's own head for dense tasks (HRNetV2: Wang et al., 2020, section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn

from gate2static.models.heads import resize


class HrnetHead(nn.Module):
    """All resolutions at the finest one side by side, a 1×1 convolution, another, bilinear to (N, outputs, H, W)."""

    def __init__(self, shapes: Sequence[Size], outputs: int, image_size: tuple[int, int]) -> None:
        """Takes the feature maps' shapes (N, C, H, W), finest first, and the map's channels and size."""
        super().__init__()
        width = sum(shape[1] for shape in shapes)
        self.fuse = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.out = nn.Conv2d(width, outputs, 1)
        self.sizes = [(shape[2], shape[3]) for shape in shapes]
        self.image_size = image_size

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps the feature maps to a map (N, outputs, H, W)."""
        finest = self.sizes[0]
        maps = [resize(features[index], size, finest) for index, size in enumerate(self.sizes)]
        return resize(self.out(self.fuse(torch.cat(maps, dim=1))), finest, self.image_size)
