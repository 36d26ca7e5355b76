"""What training depends on and torch.fx does not record: where gradients stop, and gradients that somebody wrote.

A value that was made while gradients are off is detached where code with gradients reads it. A custom
`torch.autograd.Function` whose `backward` is no derivative stays one call, so that it is used. A forward that switches
autocast on cannot be recorded.
"""

import functools
import operator
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

_MARK = "without_grad"


@contextmanager
def custom_functions(call: Callable[..., Any]) -> Iterator[None]:
    """While this lasts, autograd functions that are given proxies are called by `call(kind, run, args)`."""
    kept = torch.autograd.Function.__dict__["apply"]

    def apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        run = functools.partial(kept.__get__(None, kind), *args, **kwargs)
        proxies = any(isinstance(x, fx.Proxy) for x in pytree.tree_leaves(args))
        return call(kind, run, args) if proxies and not kwargs else run()

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = kept


def stays_whole(kind: type[torch.autograd.Function], args: tuple[Any, ...], known: tuple[Any, ...]) -> bool:
    """Whether an autograd function becomes one call, because its `backward` is not the derivative of its `forward`.

    Torch's own functions, and those that are given what they call, are followed in any case.

    Args:
        kind: the function.
        args: what it is called with, with proxies for tensors.
        known: the same, with tensors of the right shape.
    """
    calls = any(callable(x) and not isinstance(x, fx.Proxy) for x in pytree.tree_leaves(args))
    if kind.__module__.partition(".")[0] == "torch" or calls:
        return False
    try:
        return not _is_derivative(kind, known)
    except Exception:  # noqa: BLE001  # what does not run like this is not followed either
        return True


def _is_derivative(kind: type[torch.autograd.Function], known: tuple[Any, ...]) -> bool:
    """Compare gradients with those of torch for the forward, on random numbers of all sizes."""
    generator = torch.Generator().manual_seed(0)

    def numbers(like: Tensor, spread: float) -> Tensor:
        size, drawn = (torch.randn(like.shape, generator=generator) for _ in range(2))
        return (drawn * 10 ** (spread * size)).to(like.device, like.dtype)

    if not all(t.is_floating_point() for t in known if isinstance(t, Tensor)):
        return False
    inputs = [numbers(t, 0.3).requires_grad_() if isinstance(t, Tensor) else t for t in known]
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    separate = kind.setup_context is not torch.autograd.Function.setup_context  # then forward has no context
    followed = kind.forward(*([] if separate else [_Context()]), *inputs)
    called = kind.apply(*inputs)
    pairs = list(zip(pytree.tree_leaves(followed), pytree.tree_leaves(called), strict=True))
    weights = [numbers(a, 2.0) for a, _ in pairs]
    theirs, torchs = (
        torch.autograd.grad([pair[k] for pair in pairs], tensors, weights, allow_unused=True) for k in (1, 0)
    )
    return all(
        (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-3, atol=1e-6))
        for a, b in zip(theirs, torchs, strict=True)
    )


class _Context(types.SimpleNamespace):
    """What a forward may do with its context where nobody will call its backward."""

    def save_for_backward(self, *tensors: Any) -> None:
        """Forgets them."""


@functools.cache
def as_function(kind: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The target of a node that calls it."""

    def apply(*args: Any) -> Any:
        return kind.apply(*args)

    apply.__name__, apply.__module__ = kind.__name__, kind.__module__
    apply.autograd = kind  # type: ignore[attr-defined]  # a note on a function, for whoever asks what it runs
    return apply


def is_custom(target: Any) -> bool:
    """Whether a node's target is a custom autograd function."""
    return hasattr(target, "autograd")


def autocast_devices() -> frozenset[str]:
    """The kinds of devices that autocast is on for."""
    return frozenset(kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind))


def refuse_autocast(before: frozenset[str]) -> None:
    """Raise where autocast is on and was not before.

    Raises:
        TraceError: it is.
    """
    if switched := sorted(autocast_devices() - before):
        raise TraceError(f"autocast is switched on for {switched[0]} in the forward, and a graph does not say so")


def mark(node: fx.Node) -> None:
    """Remember whether a node is recorded while gradients are off."""
    if not torch.is_grad_enabled():
        node.meta[_MARK] = True


def settle_marks(graph: fx.Graph, shape_of: Callable[[Any], Any]) -> None:
    """Of what was made without gradients keep the tensors, and those in tuples: the others cannot be detached."""
    for node in graph.nodes:
        source = node.args[0] if node.target in (operator.getitem, getattr) else None
        inherits = isinstance(source, fx.Node) and _MARK in source.meta and shape_of(source) is None
        if inherits:
            node.meta[_MARK] = True
    for node in graph.nodes:
        if _MARK in node.meta and shape_of(node) is None:
            node.meta[_MARK] = False


def detach(graph: fx.Graph) -> None:
    """Detach what was made without gradients where code with gradients reads it."""
    for node in list(graph.nodes):
        outside = {user for user in node.users if _MARK not in user.meta}
        if node.meta.get(_MARK) and outside:
            with graph.inserting_after(node):
                cut = graph.call_method("detach", (node,))
            node.replace_all_uses_with(cut, delete_user_cb=outside.__contains__)
    for node in graph.nodes:
        node.meta.pop(_MARK, None)
