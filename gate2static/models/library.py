"""Shared code of the backbones from torchvision and timm: options, downloads and padding."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import RecipeError
from gate2static.recipe import Strict


class LibraryOptions(Strict):
    """Options of backbones that are taken from a library unchanged."""

    pretrained: bool = False
    """Whether to start from the library's default weights, which are downloaded once."""


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turns a failed download of a network's weights into a RecipeError that names the network.

    Raises:
        RecipeError: The weights are not in the library's cache and cannot be downloaded.
    """
    try:
        yield
    except OSError as error:
        raise RecipeError(
            f"model.options.pretrained: the weights of {name} cannot be fetched: {' '.join(str(error).split())}; "
            "connect once, bring the library's cache along, or set pretrained to false"
        ) from error


def create(name: str, *, in_channels: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """Creates one of timm's networks.

    Args:
        name: A name in timm's registry.
        in_channels: The channels of the images; timm adapts the first layer and its weights.
        pretrained: Whether to start from the weights that timm has under this name.
        options: Further arguments of `timm.create_model`.

    Raises:
        RecipeError: The weights are not in timm's cache and cannot be downloaded.
    """
    import timm  # takes seconds

    with fetching(f"timm/{name}"):
        model: nn.Module = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    return model


def pad(x: Tensor, size: Sequence[int], multiple: int) -> Tensor:
    """Pads images with zeros at the right and the bottom, so that height and width become multiples of a number.

    Args:
        x: Images (N, C, H, W).
        size: The images' height and width. The network was built for this size; it is not read from the images, so that
            it is a constant when the network is traced.
        multiple: The number that divides the padded height and width.
    """
    bottom, right = (-side % multiple for side in size)
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x
