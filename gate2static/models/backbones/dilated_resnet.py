"""ResNet-18 and ResNet-50 with output stride 8 and dilated convolutions, as in Vandenhende et al. (2021)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from gate2static.models.library import create
from gate2static.models.weights import LibraryOptions
from gate2static.runtimes.optional import require

OUTPUT_STRIDE = 8
WEIGHTS = "tv_in1k"  # torchvision's first weights, which existed when the paper was written, and not timm's default


class DilatedResNetOptions(LibraryOptions):
    """Options of `resnet18_dilated` and `resnet50_dilated`."""

    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """A factor of every channel count, the stem's 64 included."""

    @model_validator(mode="after")
    def _weights_fit(self) -> "DilatedResNetOptions":
        if self.starts_trained and self.width != 1:
            raise ValueError("trained weights are of width 1 only; leave out pretrained and weights, or width")
        return self


class DilatedResNet(nn.Module):
    """Maps images (N, C, H, W) to the features of the stem, the first stage and the last, at strides 2, 4 and 8.

    The stages are timm's. The stem is ours, because timm's stem cannot be made narrower. Parameters have timm's names.

    Args:
        depth: 18 for basic blocks, or 50 for bottlenecks.
        in_channels: The channels of the images.
        width: A factor of every channel count.
    """

    def __init__(self, depth: Literal[18, 50], in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        resnet = require("timm.models.resnet")
        block = resnet.BasicBlock if depth == 18 else resnet.Bottleneck
        blocks = (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)
        channels = tuple(max(1, round(count * width)) for count in (64, 128, 256, 512))
        self.conv1 = nn.Conv2d(in_channels, channels[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.act1 = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages, _ = resnet.make_blocks((block,) * 4, channels, blocks, channels[0], output_stride=OUTPUT_STRIDE)
        self.layer1, self.layer2, self.layer3, self.layer4 = (stage for _, stage in stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps images (N, C, H, W) to maps of 64w, 64we and 512we channels; e is 1 for basic blocks, else 4."""
        stem = self.act1(self.bn1(self.conv1(x)))
        fine = self.layer1(self.maxpool(stem))
        return stem, fine, self.layer4(self.layer3(self.layer2(fine)))


def dilated_resnet18(image_shape: tuple[int, int, int], options: DilatedResNetOptions) -> nn.Module:
    """Builds `resnet18_dilated` for images (C, H, W)."""
    return _build(18, image_shape, options)


def dilated_resnet50(image_shape: tuple[int, int, int], options: DilatedResNetOptions) -> nn.Module:
    """Builds `resnet50_dilated` for images (C, H, W)."""
    return _build(50, image_shape, options)


def _build(depth: Literal[18, 50], image_shape: tuple[int, int, int], options: DilatedResNetOptions) -> nn.Module:
    model = DilatedResNet(depth, image_shape[0], options.width)
    if options.starts_trained:
        trained = create(f"resnet{depth}.{WEIGHTS}", in_channels=image_shape[0], start=options, num_classes=0)
        model.load_state_dict(trained.state_dict())
    return model
