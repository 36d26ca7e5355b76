"""Checks the arguments of `gate` before anything is traced."""

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gate2static.arguments import require_count, require_kind
from gate2static.errors import GateError
from gate2static.gates.model import SHARED
from gate2static.messages import brief
from gate2static.program.structures import take_apart

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)

MOST_CHANNELS = 2**62
"""The largest group of channels; a group is never wider than its layer."""


def check_backbone(backbone: Any) -> None:
    """Refuses what is no module of Python, modules that wrap another module, and modules without weights.

    Args:
        backbone: The argument that should be a backbone.

    Raises:
        GateError: The backbone cannot be gated; the message says what to gate instead.
    """
    if not isinstance(backbone, nn.Module):
        raise GateError(f"the backbone is a {type(backbone).__name__}; allowed is a torch.nn.Module.")
    for name, module in backbone.named_modules():
        what = f"{name!r} in the backbone" if name else "the backbone"
        if isinstance(module, torch.jit.ScriptModule):
            raise GateError(f"{what} is TorchScript; use the module it was made from.")
        if isinstance(module, _WRAPPERS):
            raise GateError(f"{what} is wrapped in {type(module).__name__}; use its `.module`, and wrap what is gated.")
        # torch.compile keeps the module that it wraps under this name.
        if "_orig_mod" in module._modules:
            raise GateError(f"{what} is compiled; use its `._orig_mod`, and compile what is gated.")
    tensors = [*backbone.named_parameters(), *backbone.named_buffers()]
    if lazy := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise GateError(
            f"parameters of the backbone are not initialised: {', '.join(lazy)}; run it once on the example inputs."
        )
    if empty := [name for name, tensor in tensors if tensor.is_meta]:
        raise GateError(f"the backbone has no weights yet: {empty[0]} is on the meta device; move and load it first.")


def check_inputs(inputs: Any) -> None:
    """Refuses example inputs that hold anything but tensors, since a static network takes nothing else.

    Args:
        inputs: The argument that should be a tuple or a dict of structures of tensors.

    Raises:
        GateError: The inputs hold something else; the message names it.
    """
    if not isinstance(inputs, tuple | list | Mapping):
        raise GateError(
            f"example_inputs is a {type(inputs).__name__}; allowed is a tuple of the backbone's positional "
            "arguments, such as (images,), or a dict of its arguments by name."
        )
    by_name = isinstance(inputs, Mapping)
    values = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))
    for key, value in values.items():
        for path, constant in take_apart(value)[1].constants:
            # A plain argument by name, such as `return_dict=True`, is meant to be what it is.
            is_setting = by_name and not path and isinstance(constant, bool | int | float | str)
            if constant is not None and not is_setting:
                raise GateError(
                    f"example input {key} holds {constant!r}; allowed are tensors and None, and tuples, lists, dicts "
                    "and dataclasses of them. Make it a default of the forward, pass it by name, or pass it in a "
                    "module around the backbone."
                )


def check_values(tensors: Iterable[Any]) -> None:
    """Refuses example inputs that networks cannot be compared on: an empty batch, sparse tensors, and NaN.

    Args:
        tensors: The tensors of the example inputs.

    Raises:
        GateError: A tensor is such a one.
    """
    for number, tensor in enumerate(tensors):
        what = f"tensor {number} of the example inputs"
        if tensor.layout is not torch.strided:
            raise GateError(f"{what} is sparse; allowed are dense ones: convert it with `.to_dense()`.")
        if not tensor.numel():
            raise GateError(f"{what} is empty: its shape is {tuple(tensor.shape)}; give at least one sample.")
        if tensor.is_floating_point() and not tensor.is_meta and bool(tensor.isnan().any()):
            raise GateError(f"{what} holds NaN, on which all networks agree; give values that the network may meet.")


def check_tasks(
    tasks: Sequence[str], heads: Mapping[str, nn.Module], group_size: int, task_states: Mapping[str, Any]
) -> tuple[str, ...]:
    """Checks tasks, heads, states and the group size; returns the tasks."""
    allowed = "a list of at least one name, all different"
    if isinstance(tasks, str):
        raise GateError(f"tasks are {tasks!r}; allowed is {allowed}.")
    tasks = tuple(require_kind(tasks, Iterable, name="tasks", allowed=allowed, error=GateError))
    if not tasks or len(set(map(repr, tasks))) != len(tasks):
        raise GateError(f"tasks are {brief(repr(tasks), 80)}; allowed is {allowed}.")
    require_kind(heads, (Mapping, nn.ModuleDict), name="heads", allowed="a dict from task to module", error=GateError)
    allowed = "a dict from task to a state dict"
    require_kind(task_states, Mapping, name="task_states", allowed=allowed, error=GateError)
    if bad := [t for t in tasks if not _is_task_name(t)]:
        raise GateError(
            f"task names {brief(bad, 80)} are not allowed: use letters, digits and underscores, not starting with "
            f"a digit, and neither {SHARED!r} nor a keyword of Python nor an attribute of torch.nn.ModuleDict."
        )
    if missing := [t for t in tasks if t not in heads]:
        given = brief(sorted(map(str, heads)), 80)
        raise GateError(f"no head for task {', '.join(missing)}; heads are given for {given}. Add one to each.")
    if unknown := sorted(map(str, {*heads, *task_states} - set(tasks))):
        raise GateError(f"heads or states are given for {unknown}, which are not among the tasks {list(tasks)}.")
    if bad := [t for t in tasks if not isinstance(heads[t], nn.Module)]:
        raise GateError(f"the heads of {bad} are no torch.nn.Module; wrap functions in one.")
    require_count(group_size, name="group_size, a number of channels,", error=GateError, most=MOST_CHANNELS)
    return tasks


def _is_task_name(name: Any) -> bool:
    """Returns whether a name can be that of a module, and is not taken by the shared stream or by nn.ModuleDict."""
    if not isinstance(name, str):
        return False
    is_taken = name == SHARED or keyword.iskeyword(name) or hasattr(nn.ModuleDict(), name)
    return re.fullmatch(r"[A-Za-z_]\w*", name) is not None and not is_taken
