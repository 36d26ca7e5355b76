"""ViT-small and ViT-base for DPT (Ranftl et al., 2021, section 3), with the tokens of four depths as feature maps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gate2static.models.library import LibraryOptions, create, pad

PATCH = 16

OWN_MEAN = OWN_STD = 0.5
"""The mean and the standard deviation of the images that timm's weights of these networks were trained on."""


class ViT(nn.Module):
    """Maps images (N, C, H, W) to four maps (N, D, ceil(H / 16), ceil(W / 16)), one per quarter of the blocks.

    The class token takes part in attention, but the maps do not contain it ("ignore" in Ranftl et al.). DPT's default
    is a linear layer on both tokens; tables 3 and 4 of the paper leave no room for its cost (docs/paper_costs.md).
    Images are padded with zeros at the right and the bottom to whole patches.

    Args:
        name: A ViT of timm with patches of 16×16.
        image_shape: The images' (C, H, W).
        pretrained: Whether to start from timm's default weights. Position embeddings are then resized, and the patch
            projection is changed to take images with the usual ImageNet normalisation.
        blocks: The blocks whose outputs are the maps.
    """

    def __init__(
        self,
        name: str,
        image_shape: tuple[int, int, int],
        *,
        pretrained: bool = False,
        blocks: Sequence[int] = (2, 5, 8, 11),
    ) -> None:
        super().__init__()
        channels, *self.size = image_shape
        self.features = create(
            name,
            in_channels=channels,
            pretrained=pretrained,
            img_size=tuple(math.ceil(side / PATCH) * PATCH for side in self.size),
            features_only=True,
            out_indices=tuple(blocks),
        )

        if pretrained and channels == 3:
            take_normalised(self.features.get_submodule("model.patch_embed.proj"))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps images (N, C, H, W) to the four maps, first blocks first."""
        maps: list[Tensor] = self.features(pad(x, self.size, PATCH))
        return maps


def take_normalised(projection: nn.Module) -> None:
    """Changes a pretrained patch projection, in place, to take images with the usual ImageNet normalisation.

    With x = (image - mean) / std, the projection was trained on (x std + mean - 0.5) / 0.5. That is linear in x, so the
    projection's weight and bias can absorb it.
    """
    from gate2static.data.transforms import IMAGENET_MEAN, IMAGENET_STD  # imports torchvision

    weight = projection.get_parameter("weight")  # (D, channels, 16, 16)
    bias = projection.get_parameter("bias")
    scale = (torch.tensor(IMAGENET_STD) / OWN_STD).view(1, -1, 1, 1)
    shift = ((torch.tensor(IMAGENET_MEAN) - OWN_MEAN) / OWN_STD).view(1, -1, 1, 1)
    with torch.no_grad():
        bias.add_((weight * shift).sum(dim=(1, 2, 3)))
        weight.mul_(scale)


def vit_small(image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    """Builds `vit_small` (D = 384); its weights are of ImageNet-21k, fine-tuned on ImageNet-1k at 384×384."""
    return ViT("vit_small_patch16_384", image_shape, pretrained=options.pretrained)


def vit_base(image_shape: tuple[int, int, int], options: LibraryOptions) -> nn.Module:
    """Builds `vit_base` (D = 768); its weights are of ImageNet-21k, fine-tuned on ImageNet-1k at 384×384."""
    return ViT("vit_base_patch16_384", image_shape, pretrained=options.pretrained)
