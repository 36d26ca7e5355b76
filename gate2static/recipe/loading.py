"""Loading of a recipe file, with `key.sub=value` overrides."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gate2static import plugins
from gate2static.errors import RecipeError
from gate2static.files import open_regular
from gate2static.recipe.budget import Budget
from gate2static.recipe.catalogue.bundled import missing_recipe, recipe_path
from gate2static.recipe.parsing import parse, shortened
from gate2static.recipe.plain_yaml import LONGEST_TEXT, read_yaml
from gate2static.recipe.presets import with_preset
from gate2static.recipe.schema import Recipe

_LARGEST_FILE = 4 * LONGEST_TEXT
"""The most bytes that are read of a recipe; a character has up to four."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: A YAML file, or the name of a recipe that came with the package, such as `digits_tiny`.
        overrides: Changes as `key.sub=value`. The value is read as YAML; a list item is named by its number
            (`tasks.0.weight=2`).

    Raises:
        RecipeError: The file is missing or not YAML, a key is unknown, or a value is of the wrong type. The message is
            one line.
    """
    path = recipe_path(path)
    try:
        with open_regular(path) as file:
            text = file.read(_LARGEST_FILE + 1).decode("utf-8")
    except FileNotFoundError:
        raise missing_recipe(path) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{path}: cannot be read as a recipe: {str(reason)[:200]}") from None
    try:
        raw = read_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values, found {type(raw).__name__}")
    for override in overrides:
        _override(raw, override)
    recipe = parse(Recipe, with_preset(raw), where=str(path))
    # The user passed the file, and with it the names of code in it.
    plugins.allow(recipe.code_names)
    return recipe


def parse_budget(values: Sequence[str]) -> Budget:
    """Reads a budget from values of `--budget`.

    Args:
        values: `key=value` strings, such as `macs=0.5`, or `latency_ms=8` and `device=board.json`.

    Raises:
        RecipeError: The values name no kind of cost, several kinds or an unknown kind, or a key twice. The message is
            one line.
    """
    raw: dict[str, Any] = {}
    keys = [value.partition("=")[0] for value in values]
    for key, value in zip(keys, values, strict=True):
        if keys.count(key) > 1:
            raise RecipeError(f"--budget {key} is given {keys.count(key)} times; give it once")
        _override(raw, value, option="--budget", example="key=value, such as macs=0.5")
    return parse(Budget, raw, where="--budget")


def recipe_at(recipe: Recipe, point: Mapping[str, Any]) -> Recipe:
    """Returns a recipe with other values, and without its search.

    Args:
        recipe: The recipe.
        point: A key as of `--set` -> the new value.

    Raises:
        RecipeError: A key does not exist, or the values do not fit the recipe or each other.
    """
    raw = recipe.model_dump(mode="json", exclude={"search"})
    shown = ", ".join(f"{key}={json.dumps(value)}" for key, value in point.items())
    where = f"search.space at {shortened(shown, 200)}"
    for key, value in point.items():
        _replace(raw, key, value, where)
    return parse(Recipe, raw, where=where)


def _override(
    raw: dict[str, Any],
    text: str,
    *,
    option: str = "--set",
    example: str = "key.sub=value, such as training.gated.epochs=5",
) -> None:
    """Applies one `key.sub=value` in place; the schema checks later whether the key exists."""
    key, equals, value = text.partition("=")
    text = shortened(f"{option} {text}")
    if not equals or not key:
        raise RecipeError(f"{text}: expected {example}")
    # As YAML, so that numbers, lists and booleans need no quotes.
    try:
        parsed = read_yaml(value)
    except ValueError as error:
        raise RecipeError(f"{text}: the value is not YAML: {error}") from None
    _replace(raw, key, parsed, text)


def _replace(raw: dict[str, Any], key: str, value: Any, text: str) -> None:
    """Replaces a value in place, at the path `key`; `text` begins the error messages."""
    *parents, last = key.split(".")
    here: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}  # a section that is not there yet, such as a budget
        here = _step(here, part, text) if isinstance(here, list) else here[part]
        if not isinstance(here, dict | list):
            path = ".".join(parents[: depth + 1])
            raise RecipeError(f"{text}: {shortened(path)} is {shortened(repr(here))}, which has no keys below it")
    if isinstance(here, list):
        _step(here, last, text)
        here[int(last)] = value
    else:
        here[last] = value


def _step(items: list[Any], part: str, text: str) -> Any:
    is_number = re.fullmatch("[0-9]{1,6}", part) is not None
    if not is_number or int(part) >= len(items):
        raise RecipeError(f"{text}: found item {shortened(part)}, allowed: 0 to {len(items) - 1}")
    return items[int(part)]
