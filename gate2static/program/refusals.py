"""Refuses what a trace cannot represent, and says which line of the user's code is in the way."""

import operator
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gate2static.errors import TraceError
from gate2static.graphs import KeptTensor
from gate2static.program.annotate import NodeError
from gate2static.program.rewrites.gradients import is_custom
from gate2static.program.rewrites.in_training import ModeError
from gate2static.program.rewrites.out_of_place import StoredWriteError
from gate2static.program.size_decisions import NOT_THEIRS
from gate2static.program.tracing.known_proxies import FollowsBatchError
from gate2static.program.tracing.tracer import FixedDrawError, Tracer, is_leaf

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


def refuse_written(network: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Refuses a backbone that writes into its buffers in evaluation, since a static network has none.

    Args:
        network: The backbone, after it ran in eval mode.
        buffers: Its buffers before it ran.

    Raises:
        TraceError: A buffer has other values now.
    """
    for name, buffer in network.named_buffers():
        before = buffers.get(name)
        if before is not None and before.shape == buffer.shape and not torch.allclose(before, buffer, equal_nan=True):
            raise TraceError(
                f"the forward of the backbone writes into its buffer {name!r} in evaluation too, which a static "
                "network does not do; write only where self.training is set."
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


def refuse_gradient_hooks(module: nn.Module, what: str) -> None:
    """Refuses hooks on the gradients of parameters, which torch does not copy, and of what a trace takes apart.

    Args:
        module: The module to check.
        what: The module's name in the error.

    Raises:
        TraceError: There is such a hook.
    """
    for name, submodule in module.named_modules():
        if (submodule._backward_hooks or submodule._backward_pre_hooks) and not is_leaf(submodule):
            refuse_hook(name, what)
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise TraceError(
                f"the parameter {name!r} of {what} has a hook, which its copies would lose; remove it, and register it "
                "after gating on that parameter of each of gated.branches."
            )


def hooked_modules(root: nn.Module, graph: fx.Graph) -> list[str]:
    """Returns the names of the modules with forward hooks that a graph takes apart; "" for the root.

    Args:
        root: The traced module.
        graph: Its graph. Modules that it calls keep their hooks.
    """
    followed = {""}
    for node in graph.nodes:
        followed.update(path for path, _ in node.meta.get("nn_module_stack", {}).values() if path != node.target)
    hooked = [name for name, module in root.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    return [name for name in hooked if name in followed]


def refuse_hook(name: str, what: str) -> None:
    """Refuses a hook that a trace loses.

    Args:
        name: The module that has it; "" for the root.
        what: The root's name in the error.

    Raises:
        TraceError: Always.
    """
    where = f"{name!r} in {what}" if name else what
    raise TraceError(
        f"{where} has a hook that would not be called any more, since gating takes that module apart; remove it, or "
        "register it on a layer, such as a convolution, which keeps its hooks."
    )


def explain_mode(error: ModeError | StoredWriteError, what: str, tracers: Sequence[Tracer]) -> str:
    """Returns the message for a difference between training and evaluation that a trace cannot hold.

    Args:
        error: The error that says what differs.
        what: The traced module's name in the message.
        tracers: The tracers, which know where the flag `training` was read.
    """
    roots = [tracer.root for tracer in tracers if isinstance(tracer.root, nn.Module)]
    reads = [place for tracer, root in zip(tracers, roots, strict=True) for place in _reads(tracer, root, error.module)]
    place = f" (where {reads[0]} reads `training`)" if reads else ""
    where = f"{error.module!r} in {what}" if error.module else what
    return f"{where} cannot train as it does now{place}: {error}. {error.fix}"


def _reads(tracer: Tracer, root: nn.Module, module: str) -> list[str]:
    """Returns the places that read `training` of a submodule or, if there are none, of any module."""
    return tracer.reads.get(id(root.get_submodule(module)), []) or tracer.places


def refuse_kept(root: nn.Module, graph: fx.Graph, what: str) -> None:
    """Refuses tensors that a forward computed from parameters in an earlier call, kept, and reads again.

    A trace would take them for constants, so that the parameters would neither be trained nor gated.

    Args:
        root: The owner of the tensors that the graph names.
        graph: The graph to check.
        what: The module's name in the error.

    Raises:
        TraceError: The graph reads such a tensor.
    """
    for node in graph.find_nodes(op="get_attr"):
        if isinstance(operator.attrgetter(str(node.target))(root), KeptTensor):
            raise TraceError(
                f"{what} reads a tensor that an earlier call of its forward computed from parameters and "
                "kept, so these parameters would not be trained; gate it before it is called, or let its `train()` "
                "clear what is kept."
            )


def explain(error: Exception, what: str, read: str = "") -> str:
    """Returns the message for a trace that failed: the reason, the line of the user's code, and how to fix it.

    Args:
        error: The error that stopped the trace.
        what: The module's name in the message.
        read: The line that last read the flag `training`, for errors that no line of the user's code raised.
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not any(map(Path(frame.filename).is_relative_to, NOT_THEIRS))]
    # The innermost frame of the user's code is the line to change.
    place = f"{theirs[-1].filename}:{theirs[-1].lineno}: `{theirs[-1].line}`" if theirs else read or "its forward"
    is_key = isinstance(error, KeyError) and isinstance(error.args[0], fx.Proxy)
    text = "a size is a key; write `int(size)`" if is_key else str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    own_function = " into a submodule of its own or into a function marked with torch.fx.wrap."
    allowed = "Allowed is code whose control flow does not depend on tensor values. Rewrite that line, or move it"
    fix = f"{allowed}{own_function}"
    if isinstance(error, FixedDrawError):
        functions = "Allowed are torch's random functions, such as torch.rand(()). Use them, or move that line"
        fix = f"{functions}{own_function}"
    if isinstance(error, FollowsBatchError):
        fix = "Allowed is code that decides alike for all batch sizes. Rewrite that line with tensor operators."
    return f"torch.fx cannot trace {what}: {reason} (at {place}). {fix}"
