"""What backbones from torchvision and timm have in common."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import RecipeError
from gate2static.recipe import Strict


class LibraryOptions(Strict):
    """Options of backbones that come from a library as they are."""

    pretrained: bool = False
    """Whether to start from the library's default weights, which downloads them once."""


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """Around whatever may download a network's weights.

    Raises:
        RecipeError: The weights are neither here nor can they be downloaded.
    """
    try:
        yield
    except OSError as error:
        raise RecipeError(
            f"model.options.pretrained: the weights of {name} cannot be fetched: {' '.join(str(error).split())}; "
            "connect once, bring the library's cache along, or set pretrained to false"
        ) from error


def create(name: str, *, in_channels: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """Makes one of timm's networks, whose import takes seconds.

    Args:
        name: As timm's registry has it.
        in_channels: timm adapts the first layer, and its weights, to that many.
        pretrained: Whether to start from the weights that timm has under this name.
        options: Further arguments of `timm.create_model`.

    Raises:
        RecipeError: The weights are neither here nor can they be downloaded.
    """
    import timm

    with fetching(f"timm/{name}"):
        model: nn.Module = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    return model


def pad(x: Tensor, size: Sequence[int], multiple: int) -> Tensor:
    """Pads images (N, C, H, W) with zeros at the right and the bottom to whole multiples.

    The size is a number that the network was built for, not read from the images, so that it is a constant when the
    network is traced.
    """
    bottom, right = (-side % multiple for side in size)
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x
