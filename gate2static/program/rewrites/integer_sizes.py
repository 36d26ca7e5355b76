"""`int(…)` and `len(…)` in a forward of what follows the batch: Python makes numbers of it, which would fix the batch.

So while such a network is traced, these names mean something else in the files of its code.
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
    """While this lasts, `int` and `len` of proxies are these, in a network's code and in functions that it imports."""

    def length_of(value: Any, /) -> Any:
        return length(value) if isinstance(value, fx.Proxy) else len(value)

    new = {"int": _integer_type(integer), "len": length_of}
    patched = [(names, {k: v for k, v in new.items() if k not in names}) for names in _global_names(root)]
    try:
        for names, added in patched:
            names.update(added)
        yield
    finally:
        for names, added in patched:
            for name in added:
                del names[name]


def _integer_type(convert: Callable[[fx.Proxy], Any]) -> type:
    """A class that passes for `int`, but for what it makes of proxies."""

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return convert(args[0]) if len(args) == 1 and isinstance(args[0], fx.Proxy) else int(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, int)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, int)

        def __eq__(cls, other: object) -> bool:
            return other is cls or other is int

        def __hash__(cls) -> int:
            return hash(int)

    return Meta("int", (int,), {})


def _global_names(root: nn.Module) -> list[dict[str, Any]]:
    """The global names of the files that a network's forwards, and the functions they import, are written in."""
    found = _of_functions(getattr(type(module), "forward", None) for module in root.modules())
    for names in list(found.values()):
        found.update(_of_functions(names.values()))
    return list(found.values())


def _of_functions(values: Iterable[Any]) -> dict[int, dict[str, Any]]:
    functions = [f for f in values if isinstance(f, types.FunctionType) and not str(f.__module__).startswith("torch.")]
    return {id(f.__globals__): f.__globals__ for f in functions}
