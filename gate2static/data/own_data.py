"""Data sets of the user's own, by the name of the function that describes them."""

from collections.abc import Iterable

from torch import Tensor

from gate2static import plugins
from gate2static.arguments import described
from gate2static.data.contract import DataSpec, OwnData, Splits
from gate2static.errors import DataError, RecipeError
from gate2static.recipe import DataRecipe
from gate2static.recipe.parsing import suggest


def own_data(recipe: DataRecipe, known: Iterable[str] = ()) -> OwnData:
    """Returns the description of a data set that the user's code has.

    Args:
        recipe: The name of the code, such as `package.module:load`, and its options.
        known: The names of other data sets, for the error message.

    Raises:
        RecipeError: The name stands for no data set, its module may not be imported, or its code fails.
    """
    name = recipe.name
    load = plugins.find(name, "datasets", where="data.name", error=RecipeError)
    if load is None:
        allowed = [*known, *plugins.installed("datasets")]
        raise RecipeError(f"data.name: found {name}; {suggest(name, allowed)}, or your own, as package.module:load")
    if not plugins.is_marked(load, "datasets"):
        raise RecipeError(
            f"data.name: {name} is no data set; mark the function with @dataset of gate2static.plugins"
        )
    data = plugins.call(load, name, recipe.options, where="data.options", error=RecipeError)
    if not isinstance(data, OwnData):
        raise RecipeError(f"data.name: {name} returned {described(data)}; it must return a gate2static.data.OwnData")
    return data


def own_splits(recipe: DataRecipe, known: Iterable[str] = ()) -> Splits:
    """Reads a data set of the user's own, and compares its first sample with its description.

    Args:
        recipe: The name of the code, such as `package.module:load`, and its options.
        known: The names of other data sets, for the error message.

    Raises:
        RecipeError: As for `own_data`.
        DataError: The data set cannot be read, or its first sample is not as it is described.
    """
    data = own_data(recipe, known)
    splits = plugins.call(data.splits, f"splits of {recipe.name}", {}, where="data", error=DataError)
    if not isinstance(splits, Splits):
        raise DataError(f"data: splits of {recipe.name} returned {described(splits)}; it must return a Splits")
    sample = plugins.call(splits.train.__getitem__, f"train[0] of {recipe.name}", {}, 0, where="data", error=DataError)
    _check_sample(sample, data.spec, recipe.name)
    return splits


def _check_sample(sample: object, spec: DataSpec, name: str) -> None:
    """Raises a DataError unless a sample is an image and its targets, as described."""
    if not isinstance(sample, tuple) or len(sample) != 2 or not isinstance(sample[1], dict):
        raise DataError(f"data: train[0] of {name} is {described(sample)}; allowed is (image, {{task: target}})")
    image, targets = sample
    if not isinstance(image, Tensor) or tuple(image.shape) != tuple(spec.image_shape):
        found = tuple(image.shape) if isinstance(image, Tensor) else described(image)
        raise DataError(f"data: the image of train[0] of {name} is {found}; its description says {spec.image_shape}")
    if missing := [target for target in spec.targets if not isinstance(targets.get(target), Tensor)]:
        raise DataError(f"data: train[0] of {name} has no tensor for {', '.join(missing)}, which its description names")
