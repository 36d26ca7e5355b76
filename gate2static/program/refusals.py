"""Refuses what a trace cannot represent, and says which line of the user's code is in the way."""

import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.program.annotate import NodeError
from gate2static.program.known_proxies import FollowsBatchError
from gate2static.program.rewrites.gradients import is_custom
from gate2static.program.size_decisions import NOT_THEIRS
from gate2static.program.tracer import Tracer

_FROZEN = {F.batch_norm: "BatchNorm", F.instance_norm: "InstanceNorm"}
"""Functions whose training flag is an argument, which a trace would fix -> the layers to use instead."""


def refuse_shared_forwards(root: nn.Module, what: str) -> None:
    """Refuses functions that replaced a forward and hold a module, because copies of the network would share it.

    Args:
        root: The module to check, with all its submodules.
        what: The module's name in the error.

    Raises:
        TraceError: A forward is such a function.
    """
    for name, module in root.named_modules():
        forward = vars(module).get("forward")
        if not isinstance(forward, types.FunctionType):
            continue
        closure = [cell.cell_contents for cell in forward.__closure__ or ()]
        captured = [*closure, *(forward.__defaults__ or ())]
        if any(isinstance(getattr(value, "__self__", value), nn.Module | nn.Parameter) for value in captured):
            raise TraceError(
                f"the forward of {f'{name!r} in ' if name else ''}{what} was replaced by a function that holds a "
                "module, which all copies would share; allowed is a method of the module itself: make it one with "
                "types.MethodType, or override forward in a class."
            )


def refuse_impure(
    tracer: Tracer, graph: fx.Graph, whole: frozenset[Any], causes: Sequence[Exception], what: str
) -> None:
    """Refuses whole modules and autograd functions that write into their inputs or do not run on fake tensors.

    Args:
        tracer: The tracer that made the graph.
        graph: The graph to check.
        whole: The submodules and functions that are kept whole.
        causes: The errors because of which they are kept whole; the first one is the reason that is reported.
        what: The module's name in the error.

    Raises:
        TraceError: A node of the graph is impure.
    """
    for node in graph.nodes:
        if node.op == "call_module" and node.target in whole and not tracer.is_pure(node):
            if not causes:
                raise NodeError(f"{node.target!r} in {what} writes into its inputs or does not run here.", node)
            raise TraceError(explain(causes[0], what)) from causes[0]
        if is_custom(node.target) and not tracer.is_pure(node):
            raise TraceError(
                f"{what} calls the autograd function {node.target.__name__}, which writes into its inputs or does not "
                "run on tensors without values; write its forward out of place, with torch's operators."
            )


def refuse_frozen(graph: fx.Graph, what: str) -> None:
    """Refuses functions that train differently, which could not follow `train()`, and writes into an `out` argument.

    Args:
        graph: The graph to check.
        what: The module's name in the error.

    Raises:
        TraceError: The graph calls such a function.
    """
    for node in graph.nodes:
        if node.target in _FROZEN:
            raise TraceError(
                f"{what} calls {node.target.__name__} as a function ({node.name}), whose training flag would be "
                f"frozen; use a torch.nn.{_FROZEN[node.target]} layer."
            )
        if isinstance(node.kwargs.get("out"), fx.Node):
            raise TraceError(f"{what} passes out= to {node.name}, which writes in place; assign its result instead.")


def explain(error: Exception, what: str) -> str:
    """Returns the message for a trace that failed: the reason, the line of the user's code, and how to fix it.

    Args:
        error: The error that stopped the trace.
        what: The module's name in the message.
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not any(map(Path(frame.filename).is_relative_to, NOT_THEIRS))]
    # The innermost frame of the user's code is the line to change.
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: `{theirs[-1].line}`" if theirs else "its forward"
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    allowed = "Allowed is code whose control flow does not depend on tensor values. Rewrite that line, or move it into"
    fix = f"{allowed} a function marked with torch.fx.wrap."
    if isinstance(error, FollowsBatchError):
        fix = "Allowed is code that decides alike for all batch sizes. Rewrite that line with tensor operators."
    return f"torch.fx cannot trace {what}: {reason} (at {place}). {fix}"
