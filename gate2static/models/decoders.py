"""The decoders of dense tasks by name."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from gate2static.errors import RecipeError
from gate2static.models.aspp_head import AsppHead
from gate2static.models.dpt_head import DptHead, DptOptions
from gate2static.models.heads import DenseHead, LightOptions, LinearHead
from gate2static.models.hrnet_head import HrnetHead
from gate2static.recipe import DecoderRecipe, Strict, parse
from gate2static.recipe.parsing import suggest

AUTO = "auto"
LINEAR = "linear"

DECODERS: dict[str, tuple[Callable[..., nn.Module], type[Strict]]] = {
    LINEAR: (LinearHead, Strict),
    "light": (DenseHead, LightOptions),
    "aspp": (AsppHead, Strict),
    "hrnet": (HrnetHead, Strict),
    "dpt": (DptHead, DptOptions),
}
"""Name -> (what takes the feature maps' shapes, the outputs, the image's size and its options; the options)."""


def decoder(recipe: DecoderRecipe, usual: str, dense: Mapping[str, bool]) -> Callable[..., nn.Module]:
    """What makes the heads of dense tasks.

    Args:
        recipe: The recipe's decoder.
        usual: What `auto` stands for where there are dense tasks.
        dense: Task -> whether it draws a map.

    Returns:
        (shapes of the feature maps, outputs, image size (H, W)) to a head.

    Raises:
        RecipeError: An unknown name or option, or linear heads for a task that draws a map.
    """
    name = recipe.name
    if name == AUTO:
        name = usual if any(dense.values()) else LINEAR
    if name not in DECODERS:
        raise RecipeError(f"model.decoder.name: found {name}; {suggest(name, [AUTO, *DECODERS])}")
    maps = [task for task, draws in dense.items() if draws]
    if name == LINEAR and maps:
        raise RecipeError(
            f"model.decoder.name: found linear, but {maps[0]} draws a map; allowed: "
            f"{', '.join(n for n in [AUTO, *DECODERS] if n != LINEAR)}"
        )
    head, options = DECODERS[name]
    return partial(head, **dict(parse(options, recipe.options, where="model.decoder.options")))
