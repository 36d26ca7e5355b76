"""The network for images with depth of Mao et al., figure 2: two ResNets, fused stage by stage, and a feature pyramid.

The paper says that the stages "are fused by convolution layers". UOAIS-Net, which it follows, concatenates them and has
one 1×1 convolution per stage, whose result goes to the pyramid alone and not back into the ResNets; so does this.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, get_model
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from gate2static.errors import RecipeError
from gate2static.models.library import fetching
from gate2static.models.weights import LibraryOptions, load_into

LEVELS = ("p2", "p3", "p4", "p5", "p6")
"""The maps of the pyramid, finest first, at strides 4, 8, 16, 32 and 64."""
WIDTH = 256
RESNET18 = (64, 128, 256, 512)


class Stages(nn.Module):
    """The four stages of a torchvision ResNet, without its classifier.

    Args:
        resnet: The network whose modules are taken.
    """

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.layer1 = resnet.layer1
        self.layer2 = resnet.layer2
        self.layer3 = resnet.layer3
        self.layer4 = resnet.layer4

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps images to the stages' features at strides 4, 8, 16 and 32."""
        first = self.layer1(self.stem(x))
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


class RGBDPyramid(nn.Module):
    """Maps images (N, 4, H, W) of RGB and depth to the maps of a feature pyramid, in the order of `LEVELS`.

    Args:
        colour: Maps (N, 3, H, W) to four maps at strides 4 to 32.
        depth: Maps (N, 1, H, W) to four maps of the same shapes.
        channels: The channels of the four maps.
        width: The channels of the pyramid's maps.
    """

    def __init__(
        self, colour: nn.Module, depth: nn.Module, channels: Sequence[int] = RESNET18, width: int = WIDTH
    ) -> None:
        super().__init__()
        self.colour = colour
        self.depth = depth
        self.fusions = nn.ModuleList([nn.Conv2d(2 * count, count, 1) for count in channels])
        self.pyramid = FeaturePyramidNetwork(list(channels), width, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images (N, 4, H, W) to five maps (N, width, H / stride, W / stride)."""
        stages: dict[str, Tensor] = {}
        both = zip(self.colour(x[:, :3]), self.depth(x[:, 3:]), strict=True)
        for level, fuse, (colour, depth) in zip(LEVELS[:-1], self.fusions, both, strict=True):
            stages[level] = fuse(torch.cat([colour, depth], dim=1))
        return tuple(self.pyramid(stages).values())


def rgbd_resnet18_fpn(*, pretrained: bool = False) -> RGBDPyramid:
    """Builds the pyramid on two ResNet-18.

    Args:
        pretrained: Whether both start from ImageNet's weights, which are downloaded once. The first convolution of
            depth starts from the sum of the colours' weights, as if each colour were the depth.

    Raises:
        RecipeError: The weights are not in torchvision's cache and cannot be downloaded.
    """
    return _build(LibraryOptions(pretrained=pretrained))


def build_rgbd(image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    """Builds `rgbd_resnet18_fpn` for images (4, H, W).

    Raises:
        RecipeError: The images have no depth as their fourth channel, or the weights cannot be had.
    """
    if image_shape[0] != 4:
        raise RecipeError(
            f"model.name: rgbd_resnet18_fpn takes images of 4 channels, RGB and depth; the data set's have "
            f"{image_shape[0]}; torchvision/resnet18 takes RGB"
        )
    return _build(options)


def _build(options: LibraryOptions) -> RGBDPyramid:
    colour, depth = _resnet18(options), _resnet18(options)
    colours = depth.conv1
    depth.conv1 = nn.Conv2d(1, colours.out_channels, 7, 2, 3, bias=False)
    with torch.no_grad():
        depth.conv1.weight.copy_(colours.weight.sum(dim=1, keepdim=True))
    return RGBDPyramid(Stages(colour), Stages(depth))


def _resnet18(options: LibraryOptions) -> ResNet:
    with fetching("torchvision/resnet18"):
        network: ResNet = get_model("resnet18", weights="DEFAULT" if options.pretrained else None)
    load_into(network, options, "torchvision/resnet18")
    return network
