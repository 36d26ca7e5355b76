"""The decoders of dense tasks, by name."""

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
"""By name, a head's class and the schema of its options.

The class takes the feature maps' shapes, the outputs, the image size and the options.
"""


def decoder(recipe: DecoderRecipe, usual: str, dense: Mapping[str, bool]) -> Callable[..., nn.Module]:
    """Returns a function that builds the heads of dense tasks.

    Args:
        recipe: The recipe's decoder.
        usual: The decoder that `auto` stands for where there are dense tasks.
        dense: By task, whether its output is a map.

    Returns:
        A function that maps the feature maps' shapes, the number of outputs and the image size (H, W) to a head.

    Raises:
        RecipeError: The name or an option is unknown, or the heads are linear and a task's output is a map.
    """
    name = recipe.name
    if name == AUTO:
        name = usual if any(dense.values()) else LINEAR
    if name not in DECODERS:
        raise RecipeError(f"model.decoder.name: found {name}; {suggest(name, [AUTO, *DECODERS])}")
    dense_tasks = [task for task, is_dense in dense.items() if is_dense]
    if name == LINEAR and dense_tasks:
        allowed = ", ".join(known for known in [AUTO, *DECODERS] if known != LINEAR)
        raise RecipeError(
            f"model.decoder.name: found linear, but {dense_tasks[0]} draws a map; allowed: {allowed}"
        )
    head, options = DECODERS[name]
    return partial(head, **dict(parse(options, recipe.options, where="model.decoder.options")))
