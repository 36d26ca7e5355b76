"""The part of a recipe that names architectures."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from gate2static.errors import RecipeError
from gate2static.recipe import ArchitectureRecipe, load_recipe
from gate2static.strict_json import RowName

TINY = Path("recipes/digits_tiny.yaml")


def labels(entries: str) -> list[str]:
    return [entry.label for entry in load_recipe(TINY, [f"architectures={entries}"]).architectures]


def test_places_may_be_a_list_of_paths() -> None:
    recipe = load_recipe(TINY, ["architectures=[{name: cross_stitch, places: [layer1, layer2]}]"])
    assert recipe.architectures[0].places == ("layer1", "layer2")
    with pytest.raises(RecipeError, match=r"architectures\.0\.places"):
        load_recipe(TINY, ["architectures=[{name: cross_stitch, places: [1]}]"])


def test_rows_are_named_for_their_places() -> None:
    entries = "[nddr, {name: nddr, places: last blocks}, {name: nddr, places: [a.b, c], options: {own: 0.5}}]"
    assert labels(entries) == ["nddr", "nddr-at-last_blocks", "nddr-at-a.b+c-own0.5"]
    with pytest.raises(RecipeError, match="architectures must hold different entries"):
        labels("[{name: nddr, places: [a]}, {name: nddr, places: [a]}]")


def test_all_labels_are_names_of_rows_that_differ() -> None:
    many = tuple(f"layer{number}" for number in range(100))
    entries = [many, (*many, "last"), ("a b/ü",), ("a",)]
    found = [ArchitectureRecipe(name="nddr", places=places).label for places in entries]
    assert TypeAdapter(list[RowName]).validate_python(found) == found
    assert max(map(len, found)) <= 100
    assert len(set(found)) == len(found)


def test_trees_of_tasks_are_in_a_recipe_and_in_the_names_of_rows() -> None:
    trees = (
        "[{name: branching, places: [layer2], options: {groups: [[left, right], [mask]]}}, "
        "{name: branching, places: [a, b], options: {groups: [[[left], [right]], [[left], [right]]]}}, "
        "{name: branching, macs: 0.6}, branching]"
    )
    assert labels(trees) == [
        "branching-at-layer2-left+right.mask",
        "branching-at-a+b-left.right-left.right",
        "branching-macs0.6",
        "branching",
    ]


@pytest.mark.parametrize("entry", ["{name: nddr, macs: 0.5}", "{name: branching, macs: 0.5, options: {groups: [[a]]}}"])
def test_only_trees_without_groups_are_searched(entry: str) -> None:
    with pytest.raises(RecipeError, match="macs is for branching without groups, whose tree it limits"):
        labels(f"[{entry}]")


def test_a_retrained_row_comes_behind_the_row_that_learns_its_policies() -> None:
    learning = "{name: adashare, options: {sharing: 0.1}}"
    retrained = "{name: adashare, retrain: true, options: {sharing: 0.1}}"
    assert labels(f"[{learning}, {retrained}]") == ["adashare-sharing0.1", "adashare-sharing0.1-retrained"]
    for entries in (f"[{retrained}]", f"[{retrained}, {learning}]"):
        with pytest.raises(RecipeError, match=r"draws policies of adashare-sharing0\.1; add that entry in front of it"):
            labels(entries)
    with pytest.raises(RecipeError, match="retrain is for adashare without skips"):
        labels("[{name: adashare, retrain: true, options: {skips: {left: [0]}}}]")
