"""What the command `recipes` answers."""

from pathlib import Path

from rich.table import Table

from gate2static.cli.arguments import show
from gate2static.errors import RecipeError
from gate2static.recipe import (
    bundled_recipes,
    copy_recipe,
    headline,
    recipe_schema,
    recipe_sections,
    reference_text,
)
from gate2static.terminal import say, say_json


def answer_about_recipes(*, copy: str | None, explain: bool, schema: bool) -> None:
    """Prints the list of bundled recipes, or what one option asks for instead.

    Args:
        copy: The name of a recipe to copy into the working folder.
        explain: Whether to print every key of a recipe.
        schema: Whether to print the JSON schema.

    Raises:
        RecipeError: More than one thing is asked for, or the recipe cannot be copied.
    """
    if (copy is not None) + explain + schema > 1:
        raise RecipeError("--copy, --explain and --schema exclude each other; give one of them")
    if copy is not None:
        say(f"copied: {copy_recipe(copy, Path())}")
    elif explain:
        for line in reference_text(recipe_sections()).splitlines():
            say(line)
    elif schema:
        say_json(recipe_schema())
    else:
        show(_table())


def _table() -> Table:
    table = Table("recipe", "what it is")
    for name, path in bundled_recipes().items():
        table.add_row(name, headline(path))
    return table
