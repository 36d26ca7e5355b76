"""Checks of plain values against a model, with one-line error messages."""

import difflib
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gate2static.errors import RecipeError
from gate2static.recipe.plain_yaml import check_plain

_LONGEST_NAME = 60
_LONGEST_LINE = 400
M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], raw: Mapping[str, Any], *, where: str) -> M:
    """Checks plain values against a model.

    Args:
        model: The model that the values must fit.
        raw: Plain values, as YAML gives them.
        where: The start of the error message, such as the recipe's path.

    Raises:
        RecipeError: A value does not fit. The message is one line: the first wrong key, what was found and what is
            allowed.
    """
    try:
        check_plain(raw)
        text = json.dumps(raw, default=str)
    except (TypeError, ValueError) as error:  # keys that are no text
        raise RecipeError(f"{where}: {shortened(str(error), 300)}") from None
    try:
        # Through JSON, where strict parsing still takes a list for a tuple and 1 for 1.0, but never `true` for 1.
        return model.model_validate_json(text)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    first = problems[0]  # one line per message, and most further problems follow from the first
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise RecipeError(f"{where}: {shortened(_line(model, first), _LONGEST_LINE)}{more}")


def suggest(name: str, allowed: typing.Iterable[str]) -> str:
    """Returns advice for an unknown name: the most similar allowed name, if there is one, and the whole list."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name[:_LONGEST_NAME], names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}allowed: {', '.join(names) or 'none'}"


def unknown_option(name: str, of: Callable[..., Any], options: Mapping[str, Any], *, given: Set[str]) -> str | None:
    """Returns what is wrong with the names of options, in words; None where nothing is.

    Args:
        name: What the options are for.
        of: What takes them as keywords.
        options: The options.
        given: The parameters that are no options.
    """
    allowed = sorted(set(inspect.signature(of).parameters) - given)
    for option in options:
        if option not in allowed:
            return f"{name} has no option {option!r}; {suggest(str(option), allowed)}"
    return None


def _line(model: type[BaseModel], problem: Any) -> str:
    path = ".".join(shortened(str(part)) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *parents, key = problem["loc"]
        return f"unknown key {path}; {suggest(str(key), _fields(model, parents))}"
    if problem["type"] == "missing":
        return f"missing key {path}"
    message = problem["msg"].removeprefix("Value error, ")
    if not path:
        return str(message)
    return f"{path}: found {shortened(repr(problem['input']))}; {message[0].lower()}{message[1:]}"


def shortened(text: str, longest: int = _LONGEST_NAME) -> str:
    """Returns a text of somebody's file for a message: its start where it is long, in one line."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _fields(model: type[BaseModel], parents: list[int | str]) -> set[str]:
    """Returns the field names of the model at a path below `model`."""
    here: Any = model
    for part in parents:
        if isinstance(part, str):
            here = here.model_fields[part].annotation
        while not (isinstance(here, type) and issubclass(here, BaseModel)):
            here = typing.get_args(here)[0]
    return set(here.model_fields)
