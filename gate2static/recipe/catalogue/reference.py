"""What a recipe may hold, taken from the schema itself: for readers as sections, for editors as JSON schema."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gate2static.recipe.architecture import ArchitectureRecipe
from gate2static.recipe.balancing import BalancingRecipe
from gate2static.recipe.schema import Recipe

_Schema = Mapping[str, Any]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BY_NAME_ALONE = (ArchitectureRecipe, BalancingRecipe)
"""The parts of a recipe for which a bare name may stand."""
_DEFINITIONS = "#/$defs/"
_OPTION = 4
"""The number of alternatives from which on a value is called a plain value: an option of a data set or a network."""


@dataclass(frozen=True)
class RecipeKey:
    """One key of a recipe.

    Attributes:
        name: The key.
        allowed: What its value may be, in words.
        default: Its default as YAML; None where a value is required, or where the value has keys of its own.
        meaning: What it does; empty where its section says so.
        is_required: Whether it has no default.
    """

    name: str
    allowed: str
    default: str | None
    meaning: str
    is_required: bool


@dataclass(frozen=True)
class RecipeSection:
    """The keys of one part of a recipe.

    Attributes:
        places: Where the part stands, such as `training.gated`; `tasks[]` is every item of a list, and the empty string
            is the recipe itself.
        about: What the part is for.
        keys: Its keys, in the order of the schema.
    """

    places: tuple[str, ...]
    about: str
    keys: tuple[RecipeKey, ...]


def recipe_schema() -> dict[str, Any]:
    """Returns the JSON schema of a recipe, by which editors complete and check recipes."""
    schema = Recipe.model_json_schema()
    for part in _BY_NAME_ALONE:
        definition = schema["$defs"][part.__name__]
        schema["$defs"][part.__name__] = {"anyOf": [{"type": "string"}, definition]}
    return {"$schema": _DIALECT, **schema}


def recipe_sections() -> list[RecipeSection]:
    """Returns all parts of a recipe in the order in which a reader meets them."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    places: dict[str, list[str]] = {}
    for definition, place in _places(schema, definitions, ""):
        places.setdefault(definition, []).append(place)
    sections = [_section(schema, ("",))]
    sections += [_section(definitions[name], tuple(where)) for name, where in places.items()]
    return sections


def reference_text(sections: Sequence[RecipeSection], *, width: int = 80) -> str:
    """Returns sections as plain text.

    Args:
        sections: The parts of a recipe.
        width: The length of a line, in characters.
    """
    lines: list[str] = []
    for section in sections:
        title = ", ".join(section.places) or "A recipe"
        lines += [*textwrap.wrap(title, width), *_indented(section.about, 2, width), ""]
        for key in section.keys:
            lines += _indented(f"{key.name}: {value_in_words(key)}", 2, width)
            lines += _indented(key.meaning, 6, width)
        lines.append("")
    return "\n".join(lines)


def value_in_words(key: RecipeKey) -> str:
    """Returns what a key's value may be, and its default."""
    if key.is_required:
        return f"{key.allowed}; required"
    return key.allowed if key.default is None else f"{key.allowed}; default {key.default}"


def _indented(text: str, indent: int, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2))


def _places(schema: _Schema, definitions: _Schema, place: str) -> Iterator[tuple[str, str]]:
    """Yields the definitions that a part of a recipe refers to, and where: depth first."""
    for name, value in schema["properties"].items():
        here = f"{place}.{name}" if place else name
        for definition, suffix in _referred(value):
            yield definition, here + suffix
            yield from _places(definitions[definition], definitions, here + suffix)


def _referred(value: _Schema) -> Iterator[tuple[str, str]]:
    """Yields the definition that a value is, or that the items of a list are."""
    if "$ref" in value:
        yield value["$ref"].removeprefix(_DEFINITIONS), ""
    if "items" in value:
        yield from ((definition, f"[]{suffix}") for definition, suffix in _referred(value["items"]))
    for alternative in value.get("anyOf", ()):
        yield from _referred(alternative)


def _section(schema: _Schema, places: tuple[str, ...]) -> RecipeSection:
    required = schema.get("required", ())
    keys = tuple(_key(name, value, name in required) for name, value in schema["properties"].items())
    # The docstring of a model may end with sections for programmers.
    about = schema["description"].split("\n\nRaises:")[0]
    return RecipeSection(places, _one_line(about), keys)


def _key(name: str, value: _Schema, is_required: bool) -> RecipeKey:
    # The default of a section is that of each of its keys.
    is_section = any(not suffix for _, suffix in _referred(value)) and value.get("default") is not None
    default = _yaml(value["default"]) if "default" in value and not is_section else None
    return RecipeKey(name, _allowed(value), default, _one_line(value.get("description", "")), is_required)


def _yaml(value: Any) -> str:
    """Returns a default as one writes it in a recipe."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_yaml(item)}' for name, item in value.items())}}}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


def _allowed(value: _Schema) -> str:
    """Returns in words what a value may be."""
    if "$ref" in value:
        return "a section of its own"
    if "enum" in value or "const" in value:
        return ", ".join(map(_yaml, value.get("enum", [value.get("const")])))
    alternatives = value.get("anyOf")
    if alternatives is not None:
        return _alternatives(alternatives)
    if value.get("type") == "array":
        return "a list" if len(value.get("items", {})) == 0 else f"a list: each item {_allowed(value['items'])}"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "object": "a mapping"}.get(
        value.get("type", ""), "text"
    )
    return f"{kind}{_range(value)}"


def _alternatives(alternatives: Sequence[_Schema]) -> str:
    if len(alternatives) > _OPTION:
        return "a number, text, true, false, a list of these, or lists of text by name"
    words = [_allowed(alternative) for alternative in alternatives if alternative.get("type") != "null"]
    return " or ".join(dict.fromkeys(words))


def _range(value: _Schema) -> str:
    """Returns the bounds of a number in words."""
    bounds = {
        "minimum": "from {:,g}",
        "exclusiveMinimum": "above {:,g}",
        "maximum": "to {:,g}",
        "exclusiveMaximum": "below {:,g}",
    }
    # Bounds that only keep a recipe from exhausting memory are no help to a reader.
    largest = 10**6
    words = [text.format(value[bound]) for bound, text in bounds.items() if bound in value and value[bound] <= largest]
    return "".join(f" {word}" for word in words)


def _one_line(text: str) -> str:
    return " ".join(text.split())
