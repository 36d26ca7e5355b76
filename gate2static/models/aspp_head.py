"""Atrous spatial pyramid pooling (DeepLabv3: Chen et al., 2017), the decoder of the paper's dilated ResNets."""

from collections.abc import Sequence

from torch import Size, Tensor, nn

from gate2static.models.heads import resize
from gate2static.runtimes.optional import require

RATES = (12, 24, 36)
WIDTH = 256


class AsppHead(nn.Module):
    """torchvision's ASPP on the coarsest features, a 3×3 and a 1×1 convolution, and bilinear resizing.

    The head maps feature maps to (N, outputs, H, W), as in the code of Vandenhende et al. (2021). Its pooled branch
    normalises one value per channel and image, so in training a batch must hold at least two images.

    Args:
        shapes: The feature maps' shapes (N, C, H, W), finest first.
        outputs: The channels of the predicted map.
        image_size: The height and width of the predicted map.
    """

    def __init__(self, shapes: Sequence[Size], outputs: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        deeplab = require("torchvision.models.segmentation.deeplabv3")
        self.layers = nn.Sequential(
            deeplab.ASPP(shapes[-1][1], RATES, WIDTH),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, outputs, 1),
        )
        self.size = (shapes[-1][2], shapes[-1][3])
        self.image_size = image_size

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps the feature maps to a map (N, outputs, H, W)."""
        return resize(self.layers(features[-1]), self.size, self.image_size)
