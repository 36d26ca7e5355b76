"""What the command `recipes` answers."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from gate2static.cli.arguments import show, tell, write_json
from gate2static.errors import RecipeError
from gate2static.recipe import (
    bundled_recipes,
    copy_recipe,
    headline,
    recipe_schema,
    recipe_sections,
    reference_text,
)
from gate2static.terminal import say


def answer_about_recipes(*, copy: str | None, explain: bool, schema: bool, json: Path | None) -> None:
    """Prints the list of bundled recipes, or what one option asks for instead.

    Args:
        copy: The name of a recipe to copy into the working folder.
        explain: Whether to print every key of a recipe.
        schema: Whether to print the JSON schema.
        json: The file for the answer as JSON, as `show` takes it.

    Raises:
        RecipeError: More than one thing is asked for, or the recipe cannot be copied.
    """
    if (copy is not None) + explain + schema > 1:
        raise RecipeError("--copy, --explain and --schema exclude each other; give one of them")
    if copy is not None:
        copied = copy_recipe(copy, Path())
        tell(f"copied: {copied}", json, {"copied": str(copied)})
    elif explain:
        sections = recipe_sections()
        write_json(json, [asdict(section) for section in sections])
        if json != Path("-"):
            for line in reference_text(sections).splitlines():
                say(line)
    elif schema:
        write_json(Path("-") if json is None else json, recipe_schema())
    else:
        recipes = {name: headline(path) for name, path in bundled_recipes().items()}
        show(_table(recipes), json, recipes)


def _table(recipes: Mapping[str, str]) -> Table:
    table = Table("recipe", "what it is")
    for name, what in recipes.items():
        table.add_row(name, what)
    return table
