"""The recipes that come with the package: inside it in a wheel, beside it in a clone."""

import shutil
from importlib.resources import files
from pathlib import Path

from gate2static.errors import RecipeError

_SUFFIX = ".yaml"


def bundled_recipes() -> dict[str, Path]:
    """Returns the recipes that came with the package, by name and in alphabetical order."""
    package = Path(str(files("gate2static")))
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob(f"*{_SUFFIX}"))}
    return {}


def bundled_recipe(name: str) -> Path:
    """Returns the path of a recipe that came with the package.

    Args:
        name: The recipe's name, with or without `.yaml`.

    Raises:
        RecipeError: No such recipe came with the package.
    """
    recipes = bundled_recipes()
    path = recipes.get(name.removesuffix(_SUFFIX))
    if path is None:
        raise RecipeError(f"no recipe {name} came with this installation; {_allowed(recipes)}")
    return path


def recipe_path(path: str | Path) -> Path:
    """Returns the file that a recipe's path or bundled name stands for; a file comes before a name.

    Args:
        path: A path, or the name of a recipe that came with the package, such as `digits_tiny`.
    """
    written = Path(path)
    # Only a bare name can mean a bundled recipe, so that a mistyped path is never answered with another recipe.
    is_name = written.name == str(path) and written.suffix == ""
    if is_name and not written.is_file():
        return bundled_recipes().get(written.name, written)
    return written


def missing_recipe(path: Path) -> RecipeError:
    """Returns the error for a recipe that does not exist; it names the bundled recipe that may be meant."""
    recipes = bundled_recipes()
    if path.stem in recipes:
        return RecipeError(f"{path}: no such recipe; give {path.stem}, which came with the package, or another path")
    return RecipeError(f"{path}: no such recipe; give the path of a YAML file, or a name: {_allowed(recipes)}")


def copy_recipe(name: str, folder: Path) -> Path:
    """Copies a bundled recipe into a folder, and returns the new file.

    Args:
        name: The recipe's name, with or without `.yaml`.
        folder: An existing folder.

    Raises:
        RecipeError: No such recipe came with the package, or the folder already holds a file of that name.
    """
    source = bundled_recipe(name)
    copy = folder / source.name
    if copy.exists():
        raise RecipeError(f"{copy} exists already; move it away, or run the command in another folder")
    shutil.copyfile(source, copy)
    return copy


def headline(path: Path) -> str:
    """Returns the first sentence of the comment that a recipe begins with."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        # The second paragraph of a comment is the command to type, indented.
        if not line.startswith("# ") or line.startswith("#  "):
            break
        comment.append(line.removeprefix("# "))
    return " ".join(comment).split(". ", maxsplit=1)[0].rstrip(".:")


def _allowed(recipes: dict[str, Path]) -> str:
    return f"`gate2static recipes` lists those that came with the package ({len(recipes)})"
