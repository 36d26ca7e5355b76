"""Code of the user's own, by its name `package.module:build`, or by the name that an installed package gives it.

A name that stands in a file is text, and nothing is imported because of it: a checkpoint or a run folder may be a
stranger's. What is imported was named by the user, on the command line or in a recipe that the user passed (`allow`).
What a recipe names is called with the recipe's options, so it must say that it is meant for that: it is marked as
`backbone` or `dataset`, or it is of a class of ours.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from gate2static.arguments import described
from gate2static.errors import Gate2StaticError
from gate2static.messages import brief

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_MODULE = re.compile(rf"{_WORD}(\.{_WORD})*")
_NAME = re.compile(rf"{_WORD}(\.{_WORD})*:{_WORD}")
_LONGEST_NAME = 200
_MARK = "__gate2static__"
"""The attribute of a function that says what it is for."""

Stage = Literal["backbones", "datasets", "tasks", "methods"]
"""What code is named for; installed packages name theirs in the group `gate2static.<stage>` of their entry points."""
F = TypeVar("F", bound=Callable[..., Any])

_allowed: set[str] = set()
"""Modules and names that the user named."""


def backbone(build: F) -> F:
    """Marks a function that builds a backbone for recipes: `model: {name: package.module:build}`.

    It is called with the images' shape (C, H, W) and the recipe's options by name. It returns a module that maps images
    (N, C, H, W) to a list or tuple of feature maps (N, C, H, W), finest first. A parameter `pretrained` gets False
    where other weights are loaded anyway.

    Args:
        build: The function.
    """
    setattr(build, _MARK, "backbones")
    return build


def dataset(load: F) -> F:
    """Marks a function that describes a data set for recipes: `data: {name: package.module:load}`.

    It is called with the recipe's options by name and returns a `gate2static.data.OwnData`. It is called often, so it
    reads nothing itself.

    Args:
        load: The function.
    """
    setattr(load, _MARK, "datasets")
    return load


def is_marked(value: Any, stage: Stage) -> bool:
    """Returns whether a function is marked for a stage."""
    return callable(value) and getattr(value, _MARK, None) == stage


def allow(names: Iterable[str]) -> None:
    """Lets code be imported that the user named.

    Args:
        names: Modules, as `package.module`, packages with all their modules, whole names, as `package.module:build`,
            or the names that installed packages give their code.
    """
    _allowed.update(names)


def allow_plugin(name: str, *, what: str, error: type[Gate2StaticError]) -> None:
    """Imports what the user named on the command line, and lets files name it.

    Args:
        name: A module or package, as `package.module`, or a whole name, as `package.module:build`.
        what: The origin of the name in words, such as `--plugin`.
        error: The exception class for a name that stands for nothing.

    Raises:
        Gate2StaticError: The name is none, or its module cannot be imported (of type `error`).
    """
    if is_code_name(name):
        import_named(name, what=what, error=error)
    elif len(name) <= _LONGEST_NAME and _MODULE.fullmatch(name):
        import_plugin(name, what=what, error=error)
    else:
        raise error(f"{what} is {described(name)}; allowed is a module, such as package.module.")
    allow([name])


def find(name: str, stage: Stage, *, where: str, error: type[Gate2StaticError]) -> Any:
    """Returns the code that a recipe names; None where the name is none of code.

    Args:
        name: A name such as `package.module:build`, or one that an installed package gives its code.
        stage: What it is for.
        where: The key of the recipe.
        error: The exception class for code that may not be imported, or cannot.

    Raises:
        Gate2StaticError: The user did not name its module, or it cannot be imported (of type `error`).
    """
    full_name = name if is_code_name(name) else installed(stage).get(name)
    if full_name is None:
        return None
    parts = full_name.partition(":")[0].split(".")
    packages = {".".join(parts[: end + 1]) for end in range(len(parts))}
    if _allowed.isdisjoint({name, full_name, *packages}):
        raise error(
            f"{where}: {name} is code that this file names, and nothing is imported because a file says so; add "
            f"--plugin {parts[0]}, if you trust it"
        )
    return import_named(full_name, what=where, error=error)


@cache
def installed(stage: Stage) -> Mapping[str, str]:
    """Returns the code of installed packages for a stage, `package.module:build` by name; nothing is imported."""
    found = {entry.name: entry.value for entry in entry_points(group=f"gate2static.{stage}")}
    return {name: value for name, value in found.items() if is_code_name(value)}


def call(
    function: Callable[..., Any],
    name: str,
    options: Mapping[str, Any],
    *given: Any,
    where: str,
    error: type[Gate2StaticError],
) -> Any:
    """Calls code of the user's with options from a file.

    Args:
        function: What to call.
        name: Its name.
        options: Its arguments by name.
        given: Its arguments by position.
        where: The place of the options, for the error message.
        error: The exception class for code that does not take the options, or fails.

    Raises:
        Gate2StaticError: Of type `error`, or what the code itself raises.
    """
    try:
        inspect.signature(function).bind(*given, **options)
    except TypeError as failure:
        raise error(
            f"{where}: {name} does not take the options {brief(dict(options), 200)}: {brief(failure, 160)}"
        ) from None
    except ValueError:  # a function of another language says nothing of its arguments
        pass
    try:
        return function(*given, **options)
    except Gate2StaticError:
        raise
    except Exception as failure:
        raise error(
            f"{where}: {name} failed: {type(failure).__name__}: {brief(failure, 300)}; gate2static --debug shows where"
        ) from failure


def is_code_name(name: Any) -> bool:
    """Returns whether a value is a name of code, such as `package.module:build`."""
    return isinstance(name, str) and len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def require_code_name(name: Any, *, what: str, error: type[Gate2StaticError]) -> str:
    """Returns a name of code.

    Args:
        name: The argument.
        what: The argument in words.
        error: The exception class for other values.

    Raises:
        Gate2StaticError: The value is no such name (of type `error`).
    """
    if not is_code_name(name):
        raise error(
            f"{what} is {described(name)}; allowed is a name such as package.module:build, with a colon between the "
            "module and what it defines."
        )
    return str(name)


def import_named(name: str, *, what: str, error: type[Gate2StaticError]) -> Any:
    """Imports what a name stands for; modules of the current folder are found first, as by `python -m`.

    Args:
        name: A name that the user gave, such as `package.module:build`.
        what: The origin of the name in words, such as `--model`.
        error: The exception class for a name that stands for nothing.

    Raises:
        Gate2StaticError: The name is none, its module cannot be imported, or it has no such attribute (of type
            `error`).
    """
    module_name, _, attribute = require_code_name(name, what=what, error=error).partition(":")
    module = import_plugin(module_name, what=f"{what} {name}", error=error)
    try:
        return getattr(module, attribute)
    except AttributeError:
        near = difflib.get_close_matches(attribute, [n for n in vars(module) if not n.startswith("_")], n=1)
        hint = f"; did you mean {module_name}:{near[0]}?" if near else f"; define it in {_file(module)}."
        raise error(f"{what} {name}: the module {module_name} has no {attribute}{hint}") from None


def import_plugin(module_name: str, *, what: str, error: type[Gate2StaticError]) -> Any:
    """Imports a module that the user named.

    Args:
        module_name: The module's name, such as `package.module`.
        what: The origin of the name in words, for the error message.
        error: The exception class for a module that cannot be imported.

    Raises:
        Gate2StaticError: There is no such module, or its code fails (of type `error`).
    """
    try:
        with _current_folder_first():
            return import_module(module_name)
    except ModuleNotFoundError as failure:
        if failure.name and f"{module_name}.".startswith(f"{failure.name}."):
            raise error(
                f"{what}: there is no module {failure.name}, neither in the current folder nor among the installed "
                f"packages; go to the folder that holds {failure.name.partition('.')[0]}, or install it."
            ) from failure
        raise error(f"{what}: {_failed(module_name, failure)}") from failure
    except (Exception, SystemExit) as failure:  # whatever the user's code does
        raise error(f"{what}: {_failed(module_name, failure)}") from failure


def _failed(module_name: str, failure: BaseException) -> str:
    """Returns a line for a module whose code fails when it is imported."""
    advice = "`gate2static --debug` shows where."
    if isinstance(failure, SystemExit):
        advice = 'put what a script does under `if __name__ == "__main__":`.'
    return f"importing {module_name} failed: {type(failure).__name__}: {brief(failure, 300)}; {advice}"


def _file(module: Any) -> str:
    return brief(getattr(module, "__file__", None) or module.__name__, 120)


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Lets modules of the current folder be found, before others while the block runs and after them later.

    Later imports are ours, and a file of the folder must not take the place of a library.
    """
    try:
        here = str(Path.cwd())
    except OSError:  # the folder was removed
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
