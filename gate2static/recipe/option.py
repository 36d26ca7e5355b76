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
            "allowed: a number, text, true, false, null, a list of these, or lists of text by name"
        ) from None


def _immutable(value: Any) -> Any:
    """Returns a list as a tuple, because strict parsing accepts no list for a tuple inside a validator."""
    return tuple(value) if isinstance(value, list) else value


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Returns options of one plain value as words for the name of a row, such as `c0.4`."""
    shown = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return [f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}" for name, value in shown.items()]


Option = Annotated[
    bool | int | float | str | tuple[bool | int | float | str, ...] | dict[str, tuple[str, ...]] | None,
    WrapValidator(_plain),
]
