"""Keeps in a graph what torch.fx loses and training needs: detached values, and gradients that code defines itself.

1. A value that is made while gradients are off is detached where code with gradients reads it.
2. A custom `torch.autograd.Function` stays one call where its `backward` is not the derivative of its `forward`, so
   that its `backward` is used. All others are followed.
3. A forward that switches autocast on cannot be recorded, and is refused.
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
"""Entry of a node's `meta` that was recorded while gradients are off: whether it is detached."""


@contextmanager
def custom_functions(call: Callable[..., Any]) -> Iterator[None]:
    """Intercepts autograd functions that are given proxies, for as long as the context lasts.

    Args:
        call: Called as `call(kind, run, args)` instead of the function, where `run` runs the function's forward.
    """
    original = torch.autograd.Function.__dict__["apply"]

    def apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        # The original is a class method, which has to be bound to the function's class.
        run = functools.partial(original.__get__(None, kind), *args, **kwargs)
        has_proxies = any(isinstance(x, fx.Proxy) for x in pytree.tree_leaves(args))
        return call(kind, run, args) if has_proxies and not kwargs else run()

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


def stays_whole(kind: type[torch.autograd.Function], args: tuple[Any, ...], known: tuple[Any, ...]) -> bool:
    """Returns whether an autograd function becomes one call: whether its `backward` is no derivative of its `forward`.

    Torch's own functions, and those that are given what they call, are followed in any case.

    Args:
        kind: The class of the function.
        args: The arguments, with proxies for tensors.
        known: The arguments, with tensors of the right shapes.
    """
    takes_functions = any(callable(x) and not isinstance(x, fx.Proxy) for x in pytree.tree_leaves(args))
    if kind.__module__.partition(".")[0] == "torch" or takes_functions:
        return False
    try:
        return not _is_derivative(kind, known)
    except Exception:  # noqa: BLE001  # what does not run like this is not followed either
        return True


def _is_derivative(kind: type[torch.autograd.Function], known: tuple[Any, ...]) -> bool:
    """Returns whether the gradients of an autograd function are those of its forward, on random numbers of all sizes.

    Args:
        kind: The class of the function.
        known: The arguments, with tensors of the right shapes.
    """
    if not all(t.is_floating_point() for t in known if isinstance(t, Tensor)):
        return False
    generator = torch.Generator().manual_seed(0)
    inputs = [_random(t, 0.3, generator).requires_grad_() if isinstance(t, Tensor) else t for t in known]
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    # A class with `setup_context` has a forward without a context.
    has_setup = kind.setup_context is not torch.autograd.Function.setup_context
    context = [] if has_setup else [_Context()]
    followed = pytree.tree_leaves(kind.forward(*context, *inputs))
    called = pytree.tree_leaves(kind.apply(*inputs))
    if len(followed) != len(called):
        return False
    weights = [_random(output, 2.0, generator) for output in followed]
    # The function's own backward, and torch's derivative of its forward.
    theirs = torch.autograd.grad(called, tensors, weights, allow_unused=True)
    derivatives = torch.autograd.grad(followed, tensors, weights, allow_unused=True)
    return all(map(_are_close, theirs, derivatives))


def _random(like: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Returns random numbers of both signs and of several orders of magnitude.

    Args:
        like: A tensor with the shape, dtype and device of the result.
        spread: The standard deviation of the decimal logarithm of the numbers.
        generator: The generator to draw from.
    """
    magnitude = torch.randn(like.shape, generator=generator)
    numbers = torch.randn(like.shape, generator=generator)
    return (numbers * 10 ** (spread * magnitude)).to(like.device, like.dtype)


def _are_close(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.allclose(a, b, rtol=1e-3, atol=1e-6)


class _Context(types.SimpleNamespace):
    """The context of a forward whose backward is never called."""

    def save_for_backward(self, *tensors: Any) -> None:
        """Forgets the tensors."""


@functools.cache
def as_function(kind: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Returns the function that a node calls for an autograd function.

    It is the same object for the same class, so that nodes of equal functions have equal targets.
    """

    def apply(*args: Any) -> Any:
        return kind.apply(*args)

    apply.__name__ = kind.__name__
    apply.__module__ = kind.__module__
    apply.autograd = kind  # type: ignore[attr-defined]  # a note on a function, see `is_custom`
    return apply


def is_custom(target: Any) -> bool:
    """Returns whether the target of a node is a custom autograd function."""
    return hasattr(target, "autograd")


def autocast_devices() -> frozenset[str]:
    """Returns the kinds of devices for which autocast is on."""
    return frozenset(kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind))


def refuse_autocast(before: frozenset[str]) -> None:
    """Refuses to record while autocast is on that was off before.

    Args:
        before: The kinds of devices for which autocast was on when the trace began.

    Raises:
        TraceError: Autocast is on for another kind of device.
    """
    if switched := sorted(autocast_devices() - before):
        raise TraceError(f"autocast is switched on for {switched[0]} in the forward, and a graph does not say so")


def mark(node: fx.Node) -> None:
    """Marks a node that is recorded while gradients are off."""
    if not torch.is_grad_enabled():
        node.meta[_MARK] = True


def settle_marks(graph: fx.Graph, shape_of: Callable[[Any], Any]) -> None:
    """Limits the marks to tensors, since nothing else can be detached, and extends them to tensors of marked tuples.

    Args:
        graph: The traced graph.
        shape_of: Returns the shape of a node's value, or None where it is no tensor.
    """
    for node in graph.nodes:
        # An item of a marked tuple may be read after gradients are on again.
        source = node.args[0] if node.target in (operator.getitem, getattr) else None
        if isinstance(source, fx.Node) and _MARK in source.meta and shape_of(source) is None:
            node.meta[_MARK] = True
    for node in graph.nodes:
        if _MARK in node.meta and shape_of(node) is None:
            node.meta[_MARK] = False


def take_mark(node: fx.Node, trained: fx.Node) -> None:
    """Gives a node the settled mark that it has in training, where gradients are."""
    node.meta.pop(_MARK, None)
    if _MARK in trained.meta:
        node.meta[_MARK] = trained.meta[_MARK]


def detach(graph: fx.Graph) -> None:
    """Detaches what was made without gradients where code with gradients reads it.

    Args:
        graph: A graph with settled marks, changed in place; the marks are removed.
    """
    for node in list(graph.nodes):
        outside = {user for user in node.users if _MARK not in user.meta}
        if node.meta.get(_MARK) and outside:
            with graph.inserting_after(node):
                detached = graph.call_method("detach", (node,))
            node.replace_all_uses_with(detached, delete_user_cb=outside.__contains__)
    for node in graph.nodes:
        node.meta.pop(_MARK, None)
