"""JSON files that need not be trusted: bounded, and without what two readers could take for different things."""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

from gate2static.errors import Gate2StaticError
from gate2static.files import read_bytes
from gate2static.messages import brief

LARGEST_FILE = 2**26
"""The most bytes of a JSON file: 64 MiB."""
M = TypeVar("M", bound=BaseModel)
_DEEPEST = 32
_LONGEST_NUMBER = 40
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,254}")


def _in_the_run(path: str) -> str:
    """Refuses paths that lead out of a run's folder, since later commands write there."""
    parts = path.split("/")
    if not 1 <= len(parts) <= 8 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"{path[:60]!r} is no path inside the run's folder")
    return str(PurePosixPath(path))


def _one_name(name: str) -> str:
    if "/" in name:
        raise ValueError(f"{name[:60]!r} is no name of a folder")
    return _in_the_run(name)


RowName = Annotated[str, AfterValidator(_one_name)]
PathInRun = Annotated[str, AfterValidator(_in_the_run)]


def read_json(path: Path, *, what: str, error: type[Gate2StaticError], largest: int = LARGEST_FILE) -> Any:
    """Reads a JSON file.

    Args:
        path: The file, which need not be trusted.
        what: The kind of file, for the error message: "latency report".
        error: The exception class for a file that cannot be read.
        largest: The most bytes that the file may have.

    Raises:
        Gate2StaticError: The file cannot be read, or is no plain JSON (of type `error`).
    """
    return parse_json(read_bytes(path, what=what, error=error, largest=largest), where=str(path), error=error)


def read_model(path: Path, model: type[M], *, what: str, advice: str, error: type[Gate2StaticError]) -> M:
    """Reads a JSON file that holds one model.

    Args:
        path: The file, which need not be trusted.
        model: The model that the file must fit.
        what: The kind of file, for the error message: "latency report".
        advice: The end of the error message: "make one with …".
        error: The exception class for a file that is not one.

    Raises:
        Gate2StaticError: The file cannot be read, or is not such a file (of type `error`).
    """
    try:
        content = read_json(path, what=what, error=error)
    except error as failure:
        raise error(f"{str(failure).rstrip('.')}; {advice}") from None
    try:
        return model.model_validate(content)
    except ValidationError as failure:
        raise error(f"{path} is not {_article(what)}: {first_problem(failure)}; {advice}") from None


def first_problem(failure: ValidationError) -> str:
    """Returns the place of the first value that does not fit, and why, as one short line."""
    first = failure.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:60] for part in first["loc"][:8]) or "the file"
    return f"{where}: {brief(first['msg'].removeprefix('Value error, '))}"


def _article(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def parse_json(data: bytes, *, where: str, error: type[Gate2StaticError]) -> Any:
    """Returns the content of JSON text in UTF-8, as plain values.

    Keys that occur twice, NaN, infinities, numbers of more than 40 digits and values nested deeper than 32 are refused.

    Args:
        data: The text.
        where: The start of the error message, such as the file's path.
        error: The exception class for text that is not such JSON.

    Raises:
        Gate2StaticError: The text is not such JSON (of type `error`).
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
        )
        _check_depth(value)
    except RecursionError:
        raise error(f"{where} cannot be read: its values are nested too deep.") from None
    except UnicodeDecodeError as failure:
        raise error(f"{where} cannot be read: byte {failure.start} is not UTF-8.") from None
    except ValueError as failure:
        raise error(f"{where} cannot be read as JSON: {brief(failure)}.") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {brief(repr(key), 60)} occurs twice")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {brief(text, 60)} is too large")
    return number


def _check_depth(value: Any) -> None:
    """Raises a ValueError where values are nested deeper than any of ours."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST + 1):
        level = [item for outer in level for item in _items(outer) if isinstance(item, list | dict)]
        if not level:
            return
    raise ValueError(f"values are nested deeper than {_DEEPEST}")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
