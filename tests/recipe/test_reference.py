"""The reference of recipes is made of the schema: every key is in it, with what it does."""

import jsonschema
import pytest

from gate2static.recipe import Recipe, bundled_recipes, recipe_schema, recipe_sections, reference_text
from gate2static.recipe.plain_yaml import read_yaml

SCHEMA = recipe_schema()
SECTIONS = {place: section for section in recipe_sections() for place in section.places}


def tiny() -> dict[str, object]:
    recipe = read_yaml(bundled_recipes()["digits_tiny"].read_text())
    assert isinstance(recipe, dict)
    return recipe


def test_every_key_says_what_it_does() -> None:
    for section in recipe_sections():
        assert [key.name for key in section.keys if not key.meaning] == [], section.places


def test_sections_hold_the_keys_of_the_schema() -> None:
    assert [key.name for key in SECTIONS[""].keys] == list(Recipe.model_fields)
    assert {"tasks[]", "model.decoder", "training.gated.gates.schedule", "sweep_budgets[]"} <= set(SECTIONS)
    # Sections that look alike stand once.
    assert SECTIONS["training.single.weights"] is SECTIONS["training.gated.weights"]


@pytest.mark.parametrize(
    ("place", "name", "allowed", "default"),
    [
        ("", "name", "text", None),
        ("", "sweep", "a list: each item a number from 0", "[0.01, 0.03, 0.05, 0.07, 0.1]"),
        ("", "budget", "a section of its own", "null"),
        ("tasks[]", "weight", "a number above 0", "1"),
        ("gating", "group_size", "a whole number from 1 to 65,536 or layer", "1"),
        ("gating", "mixing", "softmax, hard", "softmax"),
        ("training", "devices", "a whole number from 1 or auto", "1"),
        ("training", "single", "a section of its own", None),
    ],
)
def test_a_value_is_described_in_words(place: str, name: str, allowed: str, default: str | None) -> None:
    (key,) = [key for key in SECTIONS[place].keys if key.name == name]
    assert (key.allowed, key.default) == (allowed, default)


def test_the_text_fits_a_terminal() -> None:
    text = reference_text(recipe_sections(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "tasks[]" in text
    assert "kind: text; required" in text


@pytest.mark.parametrize("name", bundled_recipes())
def test_the_json_schema_accepts_every_bundled_recipe(name: str) -> None:
    jsonschema.validate(read_yaml(bundled_recipes()[name].read_text()), SCHEMA)


@pytest.mark.parametrize("change", [{"sead": 1}, {"seed": -1}, {"sweep_balancing": [{"metod": "pcgrad"}]}])
def test_the_json_schema_refuses_what_a_recipe_may_not_hold(change: dict[str, object]) -> None:
    recipe = tiny()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**recipe, **change}, SCHEMA)


def test_a_bare_name_may_stand_for_a_method_and_an_architecture() -> None:
    recipe = tiny()
    jsonschema.validate({**recipe, "sweep_balancing": ["pcgrad"], "architectures": ["mtan"]}, SCHEMA)
