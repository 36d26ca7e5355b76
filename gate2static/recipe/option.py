"""An option of something that a recipe names: a plain value, which the named thing checks itself."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator


def _plain(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Replaces pydantic's messages, one per allowed type, by one line for all types."""
    if isinstance(value, dict):
        value = {name: _immutable(item) for name, item in value.items()}
    try:
        return check(_immutable(value))
    except ValidationError:
        raise ValueError(
            "allowed: a number, text, true, false, null, a list of these, lists of lists of text, or lists of text "
            "or whole numbers by name"
        ) from None


def _immutable(value: Any) -> Any:
    """Returns a list as a tuple, because strict parsing accepts no list for a tuple inside a validator."""
    return tuple(map(_immutable, value)) if isinstance(value, list | tuple) else value


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Returns options as words for the name of a row, such as `c0.4`; lists and dicts of plain values have none."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool | int | float | str):
            words.append(f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}")
        elif isinstance(value, tuple) and any(isinstance(item, tuple) for item in value):
            words.append(_joined(value))
    return words


def _joined(value: Any) -> str:
    """Returns groups, or lists of groups, as one word, such as `semseg+normals.depth`."""
    if isinstance(value, str):
        return value
    is_group = all(isinstance(item, str) for item in value)
    is_groups = all(isinstance(item, tuple) and all(isinstance(name, str) for name in item) for item in value)
    return ("+" if is_group else "." if is_groups else "-").join(map(_joined, value))


_Names = tuple[str, ...]
Option = Annotated[
    bool
    | int
    | float
    | str
    | tuple[bool | int | float | str, ...]
    | tuple[_Names, ...]
    | tuple[tuple[_Names, ...], ...]
    | dict[str, tuple[int | str, ...]]
    | None,
    WrapValidator(_plain),
]
