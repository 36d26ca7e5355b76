"""Questions about single nodes of a graph."""

from collections.abc import Callable
from typing import Any

from torch import fx


def function_of(node: fx.Node) -> Callable[..., Any]:
    """What a `call_function` node calls."""
    assert callable(node.target)
    return node.target
