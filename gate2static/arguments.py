"""Checks of the arguments of public functions: an error says what was found, what is allowed, and what to do."""

import math
import os
from pathlib import Path
from typing import Any, TypeVar

from gate2static.errors import Gate2StaticError
from gate2static.messages import brief

_T = TypeVar("_T")
MOST_THREADS = 1024
"""The largest number of threads: OpenMP ends the process where it cannot start so many."""
_LONGEST = 80
"""The most characters of a value in a message."""
_LARGEST = 2**31 - 1
"""The largest count: libraries in C take no larger one everywhere."""


def described(value: Any) -> str:
    """Returns a value in a few words: small plain values as they are, others by their type."""
    if value is None or isinstance(value, bool | int | float | str):
        return brief(repr(value), _LONGEST)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"


def require_kind(
    value: Any, kind: type[_T] | tuple[type[_T], ...], *, name: str, allowed: str, error: type[Gate2StaticError]
) -> _T:
    """Returns a value of a certain type.

    Args:
        value: The argument.
        kind: The allowed type, or types.
        name: The argument in words.
        allowed: The allowed values in words, and what to do.
        error: The exception class for other values.

    Raises:
        Gate2StaticError: The value is of another type (of type `error`).
    """
    if not isinstance(value, kind):
        raise error(f"{name} is {described(value)}; allowed is {allowed}.")
    return value


def require_count(
    value: Any, *, name: str, error: type[Gate2StaticError], least: int = 1, most: int = _LARGEST
) -> int:
    """Returns a whole number in a range.

    Args:
        value: The argument.
        name: The argument in words.
        error: The exception class for other values.
        least: The smallest allowed number.
        most: The largest allowed number.

    Raises:
        Gate2StaticError: The value is no whole number, or outside the range (of type `error`).
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise error(f"{name} is {described(value)}; allowed is a whole number from {least} to {most}.")
    return value


def require_number(
    value: Any, *, name: str, error: type[Gate2StaticError], least: float = -math.inf, most: float = math.inf
) -> float:
    """Returns a finite number in a range.

    Args:
        value: The argument.
        name: The argument in words.
        error: The exception class for other values.
        least: The smallest allowed number.
        most: The largest allowed number.

    Raises:
        Gate2StaticError: The value is no finite number, or outside the range (of type `error`).
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and least <= value <= most):
        bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"at most {most:g}"] * (most < math.inf)
        raise error(f"{name} is {described(value)}; allowed is a finite number {' and '.join(bounds)}".rstrip() + ".")
    return float(value)


def require_path(value: Any, *, name: str, error: type[Gate2StaticError]) -> Path:
    """Returns the path that a string or a path names.

    Args:
        value: The argument.
        name: The argument in words.
        error: The exception class for other values.

    Raises:
        Gate2StaticError: The value is no path, is empty, or has a null character (of type `error`).
    """
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise error(f"{name} is {described(value)}; allowed is the path of a file or folder.")
    return Path(value)
