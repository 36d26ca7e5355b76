"""Records `torch.zeros(n, c)` and `x.expand(n, c)` where the sizes are proxies, which torch.fx does not by itself.

These functions take sizes one by one, and torch.fx records a function of torch only where a proxy stands for a tensor.
So while a network is traced, they are replaced by functions that record themselves. `torch.tensor(size)` reads numbers,
which a graph does not have: it gets the size that the tracer knows.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

_FACTORIES = ("zeros", "ones", "empty", "rand", "randn")
_READERS = ("tensor", "as_tensor")

Record = Callable[[str, Any, tuple[Any, ...], dict[str, Any]], Any]
"""Kind of a node, target, positional and named arguments -> the proxy of a new node."""


@contextmanager
def recorded_size_functions(record: Record, constant: Callable[[fx.Proxy], Any]) -> Iterator[None]:
    """Records torch's functions that take sizes one by one for as long as the context lasts.

    Args:
        record: Makes a node of a call, such as `fx.Tracer.create_proxy`.
        constant: Returns the value of a proxy that is no tensor.
    """
    plain = {name: getattr(torch, name) for name in (*_FACTORIES, *_READERS)}
    for name in _FACTORIES:
        # The node calls the plain function, not the one that stands for it meanwhile.
        setattr(torch, name, _recorded(plain[name], record, "call_function", plain[name]))
    for name in _READERS:
        setattr(torch, name, _reading(plain[name], constant))
    Tensor.expand = _recorded(Tensor.expand, record, "call_method", "expand")  # type: ignore[method-assign]
    try:
        yield
    finally:
        # The `expand` that Tensor inherits stands again.
        del Tensor.expand
        for name, function in plain.items():
            setattr(torch, name, function)


def _recorded(function: Callable[..., Any], record: Record, kind: str, target: Any) -> Callable[..., Any]:
    """Returns a function that is recorded where an argument is a proxy, and called otherwise.

    Args:
        function: The function to call.
        record: Makes a node of a call.
        kind: The kind of the node, "call_function" or "call_method".
        target: The target of the node.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, fx.Proxy) for x in pytree.tree_leaves((args, kwargs))):
            return record(kind, target, args, kwargs)
        return function(*args, **kwargs)

    return call


def _reading(function: Callable[..., Any], constant: Callable[[fx.Proxy], Any]) -> Callable[..., Any]:
    """Returns a function that is given the values of proxies, in its arguments or in lists of numbers.

    Args:
        function: The function to call.
        constant: Returns the value of a proxy that is no tensor.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(fx.Proxy, constant, (args, kwargs))
        return function(*args, **kwargs)

    return call
