"""HRNet-W18 (Wang et al., 2020) up to its four resolutions, from timm."""

from torch import Tensor, nn

from gate2static.models.library import create, pad
from gate2static.models.weights import UNTRAINED, LibraryOptions

STRIDES = (4, 8, 16, 32)


class HRNet(nn.Module):
    """Maps images (N, C, H, W) to a map at each of the strides 4, 8, 16 and 32: 18, 36, 72 and 144 channels.

    The layers that widen these maps for ImageNet's classifier are left out. timm's resolutions fit together only for
    images whose sides are multiples of 32. Other images are padded with zeros at the right and the bottom, and the maps
    are cut to ceil(H / stride) and ceil(W / stride).

    Args:
        image_shape: The images' (C, H, W).
        start: The origin of the first weights.
        name: The name of an HRNet in timm, with the tag of its weights; the default has its authors' weights.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        start: LibraryOptions = UNTRAINED,
        name: str = "hrnet_w18.ms_in1k",
    ) -> None:
        super().__init__()
        channels, *self.size = image_shape
        self.features = create(
            name,
            in_channels=channels,
            start=start,
            features_only=True,
            feature_location="",
            out_indices=(1, 2, 3, 4),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps images (N, C, H, W) to the four maps, finest first."""
        maps: list[Tensor] = self.features(pad(x, self.size, STRIDES[-1]))
        if all(side % STRIDES[-1] == 0 for side in self.size):
            return maps
        height, width = self.size
        cut = []
        for feature_map, stride in zip(maps, STRIDES, strict=True):
            cut.append(feature_map[:, :, : -(-height // stride), : -(-width // stride)])
        return cut


def hrnet_w18(image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    """Builds `hrnet_w18` for images (C, H, W)."""
    return HRNet(image_shape, start=options)
