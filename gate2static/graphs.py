"""Small helpers for torch.fx graphs and for the index arrays of channels, which several stages share."""

import copy
import logging
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor, fx, nn

M = TypeVar("M", bound=nn.Module)

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


def remove_unread(graph: fx.Graph) -> None:
    """Removes the nodes of a captured network that nothing reads.

    Torch alone would leave dropout, which draws random numbers elsewhere, and what it reads.
    """
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


class KeptTensor(Tensor):
    """A tensor that a module keeps and that was computed from its parameters, and what is computed from it."""


def copied(module: M, kept: type[Tensor] = Tensor) -> M:
    """Copies a module, and detaches the tensors that it keeps and that were computed from its parameters.

    Torch copies no tensor that gradients flow through. Modules keep such tensors: the weight that a hook computes
    before each call (`torch.nn.utils.weight_norm`, `torch.nn.utils.prune`), and what a forward remembers of its last
    call.

    Args:
        module: The module.
        kept: The class of the detached tensors.
    """
    return copy.deepcopy(module, detached_tensors(module, kept))


def copy_structure(module: M) -> M:
    """Copies a module but shares its parameters: what a forward remembers while it is tried out stays in the copy."""
    detached = detached_tensors(module, KeptTensor)
    return copy.deepcopy(module, {**detached, **{id(p): p for p in module.parameters()}})


def detached_tensors(module: nn.Module, kept: type[Tensor] = Tensor) -> dict[int, Tensor]:
    """Returns a detached copy of each tensor that a module computed from its parameters and keeps, by identity.

    Args:
        module: The module.
        kept: The class of the copies.
    """
    seen: set[int] = set()
    detached: dict[int, Tensor] = {}
    unseen: list[Any] = [vars(m) for m in module.modules()]
    while unseen:
        value = unseen.pop()
        if id(value) in seen or isinstance(value, nn.Module | type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.grad_fn is not None or isinstance(value, KeptTensor):
                detached[id(value)] = value.detach().clone().as_subclass(kept)
        elif isinstance(value, Mapping):
            unseen.extend(value.values())
        elif isinstance(value, list | tuple | set):
            unseen.extend(value)
        elif hasattr(value, "__dict__"):
            unseen.append(vars(value))
    return detached


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the log of fake tensors: torch logs a traceback there before it raises."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
