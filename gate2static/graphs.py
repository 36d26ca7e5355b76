"""Small helpers for torch.fx graphs and for the index arrays of channels, which several stages share."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx, nn

Ids = npt.NDArray[np.int64]
"""Numbers of channels, or positions of them in a tensor."""


def function_of(node: fx.Node) -> Callable[..., Any]:
    """Returns what a `call_function` node calls."""
    assert callable(node.target)
    return node.target


def module_around(node: fx.Node) -> str:
    """Returns the name of the innermost module whose forward made a node; "" for the root."""
    stack = node.meta.get("nn_module_stack", {})
    paths = [path for path, _ in stack.values() if node.op != "call_module" or path != node.target]
    return paths[-1] if paths else ""


def copy_structure(module: nn.Module) -> nn.Module:
    """Copies a module but shares its parameters: what a forward remembers while it is tried out stays in the copy."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()})


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the log of fake tensors: torch logs a traceback there before it raises."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
