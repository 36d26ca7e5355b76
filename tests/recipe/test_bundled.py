"""Recipes that come with the package have names that reach them from any folder."""

import shutil
from pathlib import Path

import pytest

from gate2static.errors import RecipeError
from gate2static.recipe import bundled_recipe, bundled_recipes, copy_recipe, headline, load_recipe
from gate2static.recipe.catalogue import bundled

SMALL = """# A small one: its first sentence. And its second.
#   gate2static train small.yaml
name: small
data: {name: digits}
tasks: [{name: left, kind: classification}]
model: {name: resnet20}
"""


def test_every_recipe_of_the_repository_has_its_name() -> None:
    assert list(bundled_recipes()) == sorted(path.stem for path in Path("recipes").glob("*.yaml"))


def test_a_recipe_loads_by_its_name_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("digits_tiny").name == "digits-tiny"


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_tiny").write_text(SMALL)
    assert load_recipe("digits_tiny").name == "small"


@pytest.mark.parametrize("path", ["recipes/digits_tiny.yaml", "digits_tiny.yaml", "x/digits_tiny"])
def test_a_mistyped_path_is_no_name_but_its_error_tells_the_name(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"no such recipe; give digits_tiny, which came with the package"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["nothing", "nothing.yaml"])
def test_an_unknown_name_is_an_error_that_says_where_names_are_listed(name: str) -> None:
    with pytest.raises(RecipeError, match=f"no recipe {name} came with this installation; `gate2static recipes` lists"):
        bundled_recipe(name)
    with pytest.raises(RecipeError, match=rf"{name}: no such recipe; .*`gate2static recipes` lists"):
        load_recipe(name)


def test_a_recipe_inside_the_package_comes_before_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel holds the recipes inside the package, a clone beside it."""
    inside, beside = tmp_path / "gate2static" / "recipes", tmp_path / "recipes"
    for folder in (inside, beside):
        folder.mkdir(parents=True)
        (folder / "small.yaml").write_text(SMALL)
    monkeypatch.setattr(bundled, "files", lambda package: tmp_path / package)
    assert bundled_recipe("small") == inside / "small.yaml"
    shutil.rmtree(inside)
    assert bundled_recipe("small.yaml") == beside / "small.yaml"
    shutil.rmtree(beside)
    assert bundled_recipes() == {}


def test_a_copy_replaces_no_file(tmp_path: Path) -> None:
    copy = copy_recipe("digits_tiny", tmp_path)
    assert copy.read_bytes() == bundled_recipe("digits_tiny").read_bytes()
    with pytest.raises(RecipeError, match="digits_tiny.yaml exists already"):
        copy_recipe("digits_tiny", tmp_path)


def test_a_headline_is_the_first_sentence_of_the_first_comment(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    assert headline(tmp_path / "small.yaml") == "A small one: its first sentence"


def test_every_bundled_recipe_has_a_headline() -> None:
    assert all(headline(path) for path in bundled_recipes().values())
