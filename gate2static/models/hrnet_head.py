"""HRNet's own head for dense tasks (HRNetV2: Wang et al., 2020, section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn

from gate2static.models.heads import resize


class HrnetHead(nn.Module):
    """A head that concatenates all resolutions at the finest one and applies two 1×1 convolutions.

    The head maps feature maps to (N, outputs, H, W).

    Args:
        shapes: The feature maps' shapes (N, C, H, W), finest first.
        outputs: The channels of the predicted map.
        image_size: The height and width of the predicted map.
    """

    def __init__(self, shapes: Sequence[Size], outputs: int, image_size: tuple[int, int]) -> None:
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
