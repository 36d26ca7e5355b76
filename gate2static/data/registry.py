"""The data sets by the names that a recipe uses."""

from collections.abc import Collection
from dataclasses import replace

from gate2static.data import camvid, celeba, cityscapes, rooms, scenes
from gate2static.data.contract import DataSource, DataSpec, Splits
from gate2static.data.files import HoldOutOptions
from gate2static.data.nyud import nyud_mt, nyud_mtan
from gate2static.data.own_data import own_data, own_splits
from gate2static.data.pairs import digits, multi_fashion
from gate2static.data.pascal import pascal_context
from gate2static.data.shards import shards
from gate2static.data.taskonomy import taskonomy
from gate2static.recipe import DataRecipe, Strict, parse

DATA_SETS: dict[str, DataSource] = {
    "camvid": DataSource(options=camvid.CamvidOptions, describe=camvid.describe, load=camvid.load),
    "celeba": DataSource(options=celeba.CelebaOptions, describe=celeba.describe, load=celeba.load),
    "cityscapes": DataSource(options=cityscapes.CityscapesOptions, describe=cityscapes.describe, load=cityscapes.load),
    "digits": DataSource(options=digits.DigitsOptions, describe=digits.describe, load=digits.load),
    "multi_fashion": DataSource(
        options=multi_fashion.MultiFashionOptions, describe=multi_fashion.describe, load=multi_fashion.load
    ),
    "nyud_mt": DataSource(options=nyud_mt.NyudOptions, describe=nyud_mt.describe, load=nyud_mt.load),
    "nyud_mtan": DataSource(options=HoldOutOptions, describe=nyud_mtan.describe, load=nyud_mtan.load),
    "pascal_context": DataSource(options=HoldOutOptions, describe=pascal_context.describe, load=pascal_context.load),
    "rooms": DataSource(options=rooms.RoomsOptions, describe=rooms.describe, load=rooms.load),
    "scenes": DataSource(options=scenes.ScenesOptions, describe=scenes.describe, load=scenes.load),
    "shards": DataSource(options=shards.ShardsOptions, describe=shards.describe, load=shards.load),
    "taskonomy": DataSource(options=taskonomy.TaskonomyOptions, describe=taskonomy.describe, load=taskonomy.load),
}


def describe_data(recipe: DataRecipe) -> DataSpec:
    """Describes the images and the targets of a data set without reading it.

    Raises:
        RecipeError: The data set or one of its options is unknown.
    """
    if recipe.name not in DATA_SETS:
        return own_data(recipe, DATA_SETS).spec
    source, options = _resolve(recipe)
    return source.describe(options)


def load_data(recipe: DataRecipe, targets: Collection[str] | None = None) -> Splits:
    """Reads a data set.

    Args:
        recipe: The data set's name and options.
        targets: The names of the targets to load; files of other targets are not needed. None loads all targets.

    Raises:
        RecipeError: The data set or one of its options is unknown.
        DataError: The data set's files are missing or hold values that its tasks do not allow.
    """
    if recipe.name not in DATA_SETS:
        return own_splits(recipe, DATA_SETS)
    source, options = _resolve(recipe)
    spec = source.describe(options)
    selected = {name: target for name, target in spec.targets.items() if targets is None or name in targets}
    return source.load(options, replace(spec, targets=selected))


def _resolve(recipe: DataRecipe) -> tuple[DataSource, Strict]:
    source = DATA_SETS[recipe.name]
    return source, parse(source.options, recipe.options, where="data.options")
