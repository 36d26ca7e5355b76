"""Shared code of the backbones from torchvision and timm: first weights, downloads and padding."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gate2static.errors import RecipeError
from gate2static.models.weights import LibraryOptions, fit, read_weights, take_normalised
from gate2static.runtimes.optional import require


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


def create(name: str, *, in_channels: int, start: LibraryOptions, **options: Any) -> nn.Module:
    """Creates one of timm's networks.

    Trained weights are changed to take RGB images with ImageNet's normalisation, which data sets have.

    Args:
        name: A name in timm's registry.
        in_channels: The channels of the images; timm adapts the first layer and its weights.
        start: The origin of the first weights, and the normalisation that they want; the default is timm's for `name`.
        options: Further arguments of `timm.create_model`.

    Raises:
        RecipeError: The weights are not in timm's cache and cannot be downloaded, their file does not fit the network,
            or the network cannot take the data sets' normalisation.
        MissingDependencyError: timm is not installed.
    """
    timm = require("timm")

    if start.weights is not None:
        state = read_weights(start.weights)
        references = [timm.create_model(name).state_dict()]
        if len(state) < len(references[0]):  # perhaps without the classifier
            references.append(timm.create_model(name, num_classes=0).state_dict())
        options["pretrained_cfg_overlay"] = {
            "state_dict": fit(state, references, f"model.options.weights: {start.weights} for timm/{name}")
        }
    with fetching(f"timm/{name}"), _without_remarks():
        model: nn.Module = timm.create_model(name, pretrained=start.starts_trained, in_chans=in_channels, **options)
    normalisation = start.normalisation
    if normalisation is None and start.starts_trained and in_channels == 3:
        timms: Any = model.pretrained_cfg
        normalisation = (timms["mean"], timms["std"])
    if normalisation is not None:
        take_normalised(model, *normalisation, f"timm/{name}")
    return model


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Silences timm's remark that a classifier's weights were left out, which is what backbones are for."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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
