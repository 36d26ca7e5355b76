"""ViT-small and ViT-base for DPT (Ranftl et al., 2021, section 3), with the tokens of four depths as feature maps."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from gate2static.models.library import create, pad
from gate2static.models.weights import UNTRAINED, LibraryOptions

PATCH = 16


class ViT(nn.Module):
    """Maps images (N, C, H, W) to four maps (N, D, ceil(H / 16), ceil(W / 16)), one per quarter of the blocks.

    The class token takes part in attention, but the maps do not contain it ("ignore" in Ranftl et al.). DPT's default
    is a linear layer on both tokens; tables 3 and 4 of the paper leave no room for its cost (docs/paper_costs.md).
    Images are padded with zeros at the right and the bottom to whole patches.

    Args:
        name: A ViT of timm with patches of 16×16.
        image_shape: The images' (C, H, W).
        start: The origin of the first weights. timm resizes the position embeddings of trained ones.
        blocks: The blocks whose outputs are the maps.
    """

    def __init__(
        self,
        name: str,
        image_shape: tuple[int, int, int],
        *,
        start: LibraryOptions = UNTRAINED,
        blocks: Sequence[int] = (2, 5, 8, 11),
    ) -> None:
        super().__init__()
        channels, *self.size = image_shape
        self.features = create(
            name,
            in_channels=channels,
            start=start,
            img_size=tuple(math.ceil(side / PATCH) * PATCH for side in self.size),
            features_only=True,
            out_indices=tuple(blocks),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps images (N, C, H, W) to the four maps, first blocks first."""
        maps: list[Tensor] = self.features(pad(x, self.size, PATCH))
        return maps


def vit_small(image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    """Builds `vit_small` (D = 384); its weights are of ImageNet-21k, fine-tuned on ImageNet-1k at 384×384."""
    return ViT("vit_small_patch16_384", image_shape, start=options)


def vit_base(image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    """Builds `vit_base` (D = 768); its weights are of ImageNet-21k, fine-tuned on ImageNet-1k at 384×384."""
    return ViT("vit_base_patch16_384", image_shape, start=options)
