"""The decoder of the dense prediction transformer (DPT: Ranftl et al., 2021, section 3 and figure 1)."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Size, Tensor, nn

from gate2static.errors import RecipeError
from gate2static.models.backbones.vit import PATCH
from gate2static.models.heads import resize
from gate2static.recipe import Strict


class DptOptions(Strict):
    """Options of `dpt`."""

    width: Annotated[int, Field(ge=1, le=1024)] = 64
    """Channels of the fusion blocks: 64 in the paper (section A.3), 256 in DPT itself."""


class DptHead(nn.Module):
    """A head that reassembles four token maps at strides 4, 8, 16 and 32 and fuses them from coarse to fine.

    The head maps feature maps to (N, outputs, H, W). It is the head of DPT's segmentation network, with its batch
    norms, for every task. Unlike DPT's, its bilinear resizing keeps pixel centres in place (`align_corners=False`).

    Args:
        shapes: The four feature maps' shapes (N, D, H / 16, W / 16), first blocks first.
        outputs: The channels of the predicted map.
        image_size: The height and width of the predicted map.
        width: The channels of the fusion blocks.

    Raises:
        RecipeError: The feature maps are not four maps of one shape.
    """

    def __init__(self, shapes: Sequence[Size], outputs: int, image_size: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        if len(shapes) != 4 or len({tuple(shape[1:]) for shape in shapes}) != 1:
            sizes = ["×".join(map(str, shape[1:])) for shape in shapes]
            raise RecipeError(
                f"model.decoder: dpt reads four feature maps of one shape, the backbone's are {', '.join(sizes)}; "
                "use vit_small or vit_base, or another decoder"
            )
        _, tokens, rows, columns = shapes[0]
        channels = [max(1, tokens // divisor) for divisor in (8, 4, 2, 1)]
        # From stride 16 to strides 4, 8, 16 and 32.
        rescale = (
            nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
            nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
            nn.Identity(),
            nn.Conv2d(channels[3], channels[3], 3, 2, 1),
        )
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(tokens, count, 1), layer, nn.Conv2d(count, width, 3, padding=1, bias=False))
            for count, layer in zip(channels, rescale, strict=True)
        )
        self.skip = nn.ModuleList(_Residual(width) for _ in range(3))
        self.refine = nn.ModuleList(_Residual(width) for _ in range(4))
        self.project = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(4))
        self.out = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(width, outputs, 1),
        )
        half = (-(-rows // 2), -(-columns // 2))
        self.sizes = [*((rows * k, columns * k) for k in (8, 4, 2, 1)), half]
        self.padded_size = (rows * PATCH, columns * PATCH)
        self.image_size = image_size

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps the four token maps to a map (N, outputs, H, W)."""
        levels = [reassemble(features[index]) for index, reassemble in enumerate(self.reassemble)]
        fused = levels[3]
        for index in (3, 2, 1, 0):
            if index < 3:
                fused = fused + self.skip[index](levels[index])
            fused = self.refine[index](fused)
            fused = self.project[index](resize(fused, self.sizes[index + 1], self.sizes[index]))
        output = resize(self.out(fused), self.sizes[0], self.padded_size)
        if self.padded_size != self.image_size:  # the backbone padded the image
            output = output[:, :, : self.image_size[0], : self.image_size[1]]
        return output


class _Residual(nn.Module):
    """DPT's residual convolution unit: activation, convolution and norm, twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]
