"""`with_tasks`: a trained gated network with other tasks, which keeps the weights and gates of those that stay."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gate2static.arguments import require_kind
from gate2static.errors import GateError
from gate2static.gates.arguments import check_tasks
from gate2static.gates.channel_gate import Gate
from gate2static.gates.check_training import set_modes
from gate2static.gates.lift import lift
from gate2static.gates.model import SHARED, GatedModel, gated_model
from gate2static.gates.traced_module import mark_alike
from gate2static.graphs import copied, quiet
from gate2static.messages import brief
from gate2static.program.program import retrace_heads

_NEW_ALPHA = -0.05
"""The first α of a new task: it shares every channel, close to where a gate opens."""
_BELOW_OTHERS = 20.0
"""How far the first β of a new task lies below the others: its weight in the mix is less than float32 resolves."""


@quiet()
def with_tasks(
    gated: GatedModel, tasks: Sequence[str], *, heads: Mapping[str, nn.Module] | None = None
) -> GatedModel:
    """Returns a gated network with other tasks: some of those it has, and new ones.

    Tasks that stay keep their branch, head and gates, and the shared branch stays. A new task starts with all gates
    shared and with a copy of the shared branch, and weighs nothing in the mix, so that nothing changes for the others
    before it is trained. A task that goes takes its features out of the mix. So what the others compute through the
    shared stream changes, unless no gate of it decides there; `prune(gated, tasks=…)` is what changes nothing.

    Args:
        gated: The network, or what wraps it for training; it is not changed.
        tasks: The tasks of the new network, in the order of its streams.
        heads: Task -> its head, for tasks that are new. It is copied, as by `gate`.

    Returns:
        The new network, in the same mode. It shares nothing with the old one, so optimisers are made anew.

    Raises:
        GateError: The model is no gated one, a task is named twice, a new task has no head or one that does not fit, or
            a head is given for a task that has one.
    """
    gated = gated_model(gated)
    new_heads = {} if heads is None else heads
    allowed = "a dict from task to module"
    require_kind(new_heads, (Mapping, nn.ModuleDict), name="heads", allowed=allowed, error=GateError)
    require_kind(tasks, Iterable, name="tasks", allowed="a list of names", error=GateError)
    if again := [task for task in new_heads if task in gated.tasks]:
        raise GateError(
            f"heads are given for {brief(again, 80)}, which the network has; tasks that stay keep their heads. To "
            "replace one, set gated.heads[task]."
        )
    tasks = tasks if isinstance(tasks, str) else tuple(tasks)
    kept = {task: gated.heads[task] for task in gated.tasks if task in tasks}
    both = {**kept, **dict(new_heads.items())}
    tasks = check_tasks(tasks, both, 1, {})
    # Copied together, so that what heads share stays shared.
    of_tasks = dict(copied(nn.ModuleDict({task: both[task] for task in tasks})).items())
    program = retrace_heads(gated.program, dict(copied(nn.ModuleDict(of_tasks)).eval().items()))
    sources = [gated.tasks.index(task) if task in gated.tasks else None for task in tasks]
    branches = {stream: _branch(gated, stream) for stream in (*tasks, SHARED)}
    encoder = lift(program, branches, _gates(gated, sources))
    changed = GatedModel(tasks=tasks, program=program, encoder=encoder, heads=nn.ModuleDict(of_tasks))
    changed._modes = dict(gated._modes)
    changed.train(gated.training)
    for stream, branch in changed.branches.items():
        for old in (gated.branches[gated.tasks[0]], gated.branches.get(stream, gated.branches[SHARED])):
            set_modes(branch, {name: module.training for name, module in old.named_modules()})
            mark_alike(branch, old)
    for task in kept:
        set_modes(changed.heads[task], {name: module.training for name, module in kept[task].named_modules()})
    return changed


def _branch(gated: GatedModel, stream: str) -> nn.Module:
    """Returns a copy of a stream's branch, of the shared one for a new task, with every module that a trace calls.

    What all streams compute alike runs once, in the branch of the first stream alone.
    """
    branches = gated.branches
    branch = copied(branches.get(stream, branches[SHARED]))
    first = copied(branches[gated.tasks[0]])
    own = dict(branch.named_modules(remove_duplicate=False))
    for name, module in first.named_modules(remove_duplicate=False):
        parent, _, last = name.rpartition(".")
        # What is added with its parent is there already.
        if name and name not in own and parent in own:
            own[parent].add_module(last, module)
    own = dict(branch.named_modules(remove_duplicate=False))
    for name, buffer in _fixed_tensors(first):
        parent, _, last = name.rpartition(".")
        if not hasattr(own[parent], last):
            own[parent].register_buffer(last, buffer)
    return branch


def _fixed_tensors(branch: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the buffers and parameters of a branch that are no floating-point numbers, which all streams share."""
    for name, tensor in (*branch.named_buffers(), *branch.named_parameters()):
        if not tensor.is_floating_point():
            yield name, tensor


def _gates(gated: GatedModel, sources: Sequence[int | None]) -> dict[str, Gate]:
    """Returns the gates of the new network; those that were tied stay tied.

    Args:
        gated: The old network.
        sources: The row of each new task in the old gates; None for a task that is new.
    """
    made: dict[int, nn.Parameter] = {}
    gates = {}
    for name, old in gated.gates.items():
        gate = Gate(
            tasks=len(sources),
            channels=old.channels,
            dim=old.dim,
            group_size=old.group_size,
            gate_init=0.0,
            gate_init_std=0.0,
            mixing="hard" if old.hard else "softmax",
        )
        for parameter in (old.alpha, old.beta):
            if id(parameter) not in made:
                start = _NEW_ALPHA if parameter is old.alpha else float(parameter.detach().min()) - _BELOW_OTHERS
                made[id(parameter)] = _rows(parameter, sources, start)
        gate.alpha = made[id(old.alpha)]
        gate.beta = made[id(old.beta)]
        gates[name] = gate.train(old.training)
    return gates


def _rows(old: nn.Parameter, sources: Sequence[int | None], start: float) -> nn.Parameter:
    """Returns rows of logits by task, with the same number everywhere for new tasks."""
    values = old.detach()
    rows = [torch.full_like(values[0], start) if row is None else values[row] for row in sources]
    return nn.Parameter(torch.stack(rows), requires_grad=old.requires_grad)
