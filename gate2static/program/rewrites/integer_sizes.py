"""Records `int(…)` and `len(…)` of what follows the batch, which Python would turn into numbers that fix the batch.

While such a network is traced, these two names mean something else in the files that its code is written in.
"""

import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn


@contextmanager
def recorded_integers(
    root: nn.Module, integer: Callable[[fx.Proxy], Any], length: Callable[[fx.Proxy], Any]
) -> Iterator[None]:
    """Replaces `int` and `len` for proxies, for as long as the context lasts.

    They are replaced in the code of a network and in the functions that this code imports.

    Args:
        root: The network.
        integer: Stands for `int` of a proxy.
        length: Stands for `len` of a proxy.
    """

    def length_of(value: Any, /) -> Any:
        return length(value) if isinstance(value, fx.Proxy) else len(value)

    replacements = {"int": _integer_type(integer), "len": length_of}
    patches = []
    for names in _global_names(root):
        # A file with a name of its own for these keeps it.
        patch = {name: value for name, value in replacements.items() if name not in names}
        patches.append((names, patch))
    try:
        for names, patch in patches:
            names.update(patch)
        yield
    finally:
        for names, patch in patches:
            for name in patch:
                del names[name]


def _integer_type(convert: Callable[[fx.Proxy], Any]) -> type:
    """Returns a class that behaves like `int` for all values except proxies.

    Args:
        convert: Returns `int` of a proxy.
    """

    class Meta(type):
        # `int(x)`
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return convert(args[0]) if len(args) == 1 and isinstance(args[0], fx.Proxy) else int(*args, **kwargs)

        # `isinstance(x, int)` and `issubclass(t, int)`
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, int)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, int)

        # `type(x) == int`
        def __eq__(cls, other: object) -> bool:
            return other is cls or other is int

        def __hash__(cls) -> int:
            return hash(int)

    return Meta("int", (int,), {})


def _global_names(root: nn.Module) -> list[dict[str, Any]]:
    """Returns the global names of the files in which a network's forwards, and the functions they import, stand.

    Args:
        root: The network.

    Returns:
        The dictionaries that Python looks global names up in, one per file.
    """
    forwards = (getattr(type(module), "forward", None) for module in root.modules())
    files = _files_of(forwards)
    for names in list(files.values()):
        files.update(_files_of(names.values()))
    return list(files.values())


def _files_of(values: Iterable[Any]) -> dict[int, dict[str, Any]]:
    """Returns the global names of the files of some functions, by identity; other values and torch have none."""
    functions = [value for value in values if isinstance(value, types.FunctionType)]
    users = [function for function in functions if not str(function.__module__).startswith("torch.")]
    return {id(function.__globals__): function.__globals__ for function in users}
