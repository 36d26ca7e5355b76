"""The linear head and the light one. All heads read the feature maps that every backbone here returns, finest first."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Size, Tensor, nn
from torch.nn import functional as F

from gate2static.recipe import Strict


class LightOptions(Strict):
    """Options of `light`."""

    width: Annotated[int, Field(ge=1, le=4096)] = 8
    """Channels of the sum."""


class LinearHead(nn.Module):
    """The paper's classifier: the global average of the coarsest features, one linear layer to (N, classes)."""

    def __init__(self, shapes: Sequence[Size], classes: int) -> None:
        """Takes the feature maps' shapes (N, C, H, W), finest first, and the number of classes."""
        super().__init__()
        self.linear = nn.Linear(shapes[-1][1], classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps the feature maps to logits (N, classes)."""
        return self.linear(features[-1].mean(dim=(2, 3)))  # type: ignore[no-any-return]


class DenseHead(nn.Module):
    """A light decoder: a 1×1 convolution a scale, the sum brought up scale by scale, a map (N, outputs, H, W).

    The sizes are numbers from the start, not read from the features, so that the exported graph has no shape
    arithmetic.
    """

    def __init__(self, shapes: Sequence[Size], outputs: int, image_size: tuple[int, int], width: int = 8) -> None:
        """Takes the feature maps' shapes (N, C, H, W), the map's channels and size, and the channels of the sum."""
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
    """Brings maps (N, C, H, W) of a known size to another, bilinearly.

    Maps of padded images, and of layers that pad, cover whole strides: they are brought to all of what they cover and
    cut, since stretching would move what they show. Where no stride explains the size, maps are stretched.
    """
    if size == to:
        return x
    covered = _covered(size, to)
    x = F.interpolate(x, size=covered, mode="bilinear", align_corners=False)
    return x if covered == to else x[:, :, : to[0], : to[1]]


def _covered(cells: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """How much of a grid of a size is covered by that many cells, whose stride is a power of two."""
    for stride in (2**exponent for exponent in range(1, max(size).bit_length())):
        if all(-(-side // stride) == count for side, count in zip(size, cells, strict=True)):
            return cells[0] * stride, cells[1] * stride
    return size
