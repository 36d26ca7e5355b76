"""The linear head and the light dense head, and the resizing that dense heads share."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Size, Tensor, nn
from torch.nn import functional as F

from gate2static.recipe import Strict


class LightOptions(Strict):
    """Options of `light`."""

    width: Annotated[int, Field(ge=1, le=4096)] = 8
    """Channels of the summed features."""


class LinearHead(nn.Module):
    """The paper's classifier: a linear layer on the global average of the coarsest features, to (N, classes).

    Args:
        shapes: The feature maps' shapes (N, C, H, W), finest first.
        classes: The number of outputs.
    """

    def __init__(self, shapes: Sequence[Size], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(shapes[-1][1], classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps the feature maps to logits (N, classes)."""
        return self.linear(features[-1].mean(dim=(2, 3)))  # type: ignore[no-any-return]


class DenseHead(nn.Module):
    """A light decoder to (N, outputs, H, W): one 1×1 convolution per scale, summed from coarse to fine.

    Sizes are fixed when the head is built and not read from the features, so that exported graphs have no shape
    arithmetic.

    Args:
        shapes: The feature maps' shapes (N, C, H, W), finest first.
        outputs: The channels of the predicted map.
        image_size: The height and width of the predicted map.
        width: The channels of the summed features.
    """

    def __init__(self, shapes: Sequence[Size], outputs: int, image_size: tuple[int, int], width: int = 8) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(shape[1], width, 1) for shape in shapes)
        self.out = nn.Conv2d(width, outputs, 3, padding=1)
        self.sizes = [(shape[2], shape[3]) for shape in shapes]
        self.image_size = image_size

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps the feature maps to a map (N, outputs, H, W)."""
        summed = self.lateral[-1](features[-1])
        for index in range(len(self.sizes) - 2, -1, -1):
            summed = resize(summed, self.sizes[index + 1], self.sizes[index])
            summed = summed + self.lateral[index](features[index])
        return resize(self.out(F.relu(summed)), self.sizes[0], self.image_size)


def resize(x: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Resizes maps (N, C, H, W) of a known size bilinearly.

    Maps of padded images, and of layers that pad, cover whole strides and so more than the image. Stretching them to
    the image would shift their content, so they are resized to the area that they cover and then cut. Where no stride
    explains the size, maps are stretched.

    Args:
        x: The maps.
        size: Their height and width.
        to: The height and width to return.
    """
    if size == to:
        return x
    covered = _covered(size, to)
    x = F.interpolate(x, size=covered, mode="bilinear", align_corners=False)
    return x if covered == to else x[:, :, : to[0], : to[1]]


def _covered(cells: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Returns the area, at least `size`, that so many cells cover if their stride is a power of two; else `size`."""
    for stride in (2**exponent for exponent in range(1, max(size).bit_length())):
        if all(-(-side // stride) == count for side, count in zip(size, cells, strict=True)):
            return cells[0] * stride, cells[1] * stride
    return size
