"""The space of a search: its points, all of which are checked before anything is trained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from gate2static import plugins
from gate2static.errors import RecipeError
from gate2static.recipe import Recipe, SearchRecipe, recipe_at
from gate2static.train.loop.balanced import check_recipe

_MOST_CHECKED = 2000
"""The number of combinations up to which all are checked; beyond, every value is checked by itself."""
_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Span:
    """A range of numbers.

    Attributes:
        low: The lowest number.
        high: The highest number.
        log: Whether the logarithm is drawn evenly.
        whole: Whether only whole numbers are drawn.
    """

    low: float
    high: float
    log: bool
    whole: bool

    def rounded(self, drawn: float) -> float:
        """Returns a drawn number with four significant digits, which somebody can read and type."""
        if self.whole:
            return int(drawn)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), self.low), self.high)


Space = Mapping[str, tuple[Any, ...] | Span]
"""A key of the recipe -> its values."""


def checked_space(recipe: Recipe) -> Space:
    """Returns the space of a recipe's search, after a look at its points.

    Raises:
        RecipeError: The recipe has no search, or a point of the space is no valid recipe.
    """
    search = searched(recipe)
    if recipe.safe is not None:
        raise RecipeError("safe: a search compares gated networks; remove it, and train the picked recipe with it")
    space = {key: _values(recipe, key, values) for key, values in search.space.items()}
    for point in _points_to_check(space):
        variant = recipe_at(recipe, point)
        plugins.allow(variant.code_names)  # named in the recipe that the user passed
        check_recipe(variant)
        if search.stop_early and variant.training.devices != 1:
            raise RecipeError(
                f"training.devices: found {variant.training.devices}, and search.stop_early stops trainings of one "
                "process; use 1 and start one worker per device, or remove search.stop_early"
            )
    return space


def searched(recipe: Recipe) -> SearchRecipe:
    """Returns the recipe's search.

    Raises:
        RecipeError: It has none.
    """
    if recipe.search is None:
        raise RecipeError(
            "the recipe has no search; add one, such as "
            "search: {space: {sparsity_weight: {log: [0.01, 1]}}, trials: 20}"
        )
    return recipe.search


def grid_points(space: Space) -> list[dict[str, Any]]:
    """Returns every point of a space without ranges; the last key varies fastest."""
    values = [entry for entry in space.values() if isinstance(entry, tuple)]
    return [dict(zip(space, point, strict=True)) for point in product(*values)]


def _values(recipe: Recipe, key: str, values: Any) -> tuple[Any, ...] | Span:
    if isinstance(values, list):
        return tuple(values)
    ((kind, (low, high)),) = values.items()
    # The recipe's key says whether it takes fractions: `{range: [0, 1]}` would not.
    whole = isinstance(low, int) and isinstance(high, int) and not _takes(recipe, key, low + 0.5)
    return Span(low=low, high=high, log=kind == "log", whole=whole)


def _takes(recipe: Recipe, key: str, value: float) -> bool:
    try:
        recipe_at(recipe, {key: value})
    except RecipeError:
        return False
    return True


def _points_to_check(space: Space) -> Iterator[dict[str, Any]]:
    """Yields all combinations of values and ranges' ends; where these are many, each value with the others' first."""
    ends = {key: (entry.low, entry.high) if isinstance(entry, Span) else entry for key, entry in space.items()}
    combinations = 1
    for values in ends.values():
        combinations *= len(values)
    if combinations <= _MOST_CHECKED:
        yield from (dict(zip(ends, point, strict=True)) for point in product(*ends.values()))
        return
    first = {key: values[0] for key, values in ends.items()}
    yield from ({**first, key: value} for key, values in ends.items() for value in values)
