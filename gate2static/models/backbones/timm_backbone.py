"""A timm network as a backbone that returns the feature maps that timm names, finest first."""

import torch
from torch import nn

from gate2static.errors import RecipeError
from gate2static.models.library import create
from gate2static.models.weights import LibraryOptions
from gate2static.recipe.parsing import suggest
from gate2static.runtimes.optional import require


def timm_backbone(name: str, image_shape: tuple[int, int, int], start: LibraryOptions) -> nn.Module:
    """Builds `timm/<name>` up to its feature maps.

    Args:
        name: An architecture in timm's own registry; names that point at a hub are refused.
        image_shape: The images' (C, H, W); timm adapts the first layer to C.
        start: The origin of the first weights.

    Raises:
        RecipeError: The name is unknown, the weights cannot be had, or the network has no feature maps
            (N, C, H, W).
    """
    known = require("timm").list_models()
    if name not in known:
        near = suggest(name, known).partition("allowed:")[0]
        raise RecipeError(f"model.name: found timm/{name}; {near}allowed: what timm.list_models() names")
    try:
        model = create(name, in_channels=image_shape[0], start=start, features_only=True, exportable=True)
        with torch.no_grad():
            maps = model.eval()(torch.zeros(1, *image_shape))
    except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"model.name: timm/{name} gives no feature maps for images of {image_shape}: {error}; "
            "use a convolutional network, or another image size"
        ) from error
    expected = model.feature_info.channels()  # type: ignore[union-attr, operator]
    # Networks with channels last return maps whose second dimension is a height.
    channels = [features.shape[1] for features in maps if features.dim() == 4]
    if channels != list(expected) or len(channels) != len(maps):
        raise RecipeError(f"model.name: timm/{name} has its channels last, heads here want (N, C, H, W); use another")
    return model.train()
