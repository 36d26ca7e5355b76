"""The program of a gated model as the model is at present: its modules may have been replaced since it was gated."""

import copy
from collections.abc import Sequence

from gate2static.errors import PruneError
from gate2static.gates.channel_gate import Gate
from gate2static.gates.model import GatedModel
from gate2static.graphs import copied
from gate2static.messages import brief
from gate2static.program.program import of_tasks, retrace_heads
from gate2static.program.signatures import replaced_layers, signature_of


def as_it_is(gated: GatedModel) -> GatedModel:
    """Returns a gated model whose program fits its modules.

    Heads may be replaced or get other settings: they are traced again. The program of the backbone stands for all
    streams at once, and was checked against the backbone, so its layers must be those that were traced.

    Args:
        gated: The model; it is not changed.

    Returns:
        The model itself where nothing was replaced, else a copy that shares everything but the program.

    Raises:
        PruneError: A layer of a branch or a gate was replaced.
        GateError: A new head does not run on the backbone's output or does not return a tensor.
    """
    for stream, name, layer in replaced_layers(gated.program.layers, gated.branches):
        found = "missing" if layer is None else f"a {type(layer).__name__} of another class or with other settings"
        raise PruneError(
            f"the layer {name!r} in the branch {stream!r} is not what was gated: it is {found}. Replace layers in the "
            "backbone and gate that; only the heads of a gated model may be replaced."
        )
    for unit in gated.program.units:
        gate = gated.gates[unit.name]
        if not isinstance(gate, Gate) or (gate.channels, gate.dim) != (unit.channels, unit.dim):
            raise PruneError(
                f"the gate of {unit.name!r} was replaced by a {type(gate).__name__} that does not fit its layer; "
                "set gates with set_gates instead."
            )
    # The program may be one of some tasks only.
    signatures = {task: signature_of(gated.heads[task]) for task in gated.program.heads}
    if signatures == gated.program.heads:
        return gated
    heads = {task: copied(gated.heads[task]).eval() for task in gated.tasks}
    present = copy.copy(gated)
    present.program = retrace_heads(gated.program, heads)
    return present


def for_tasks(gated: GatedModel, tasks: Sequence[str] | None) -> GatedModel:
    """Returns a gated model whose program has the heads of some tasks only.

    Args:
        gated: The model, as `as_it_is` returns it; it is not changed.
        tasks: The tasks; None stands for all.

    Returns:
        The model itself for all tasks, else a copy that shares everything but the program.

    Raises:
        PruneError: A task is not one of the model's, or none is given.
    """
    if tasks is None:
        return gated
    is_list = isinstance(tasks, Sequence) and not isinstance(tasks, str)
    if not is_list or not tasks or any(task not in gated.tasks for task in tasks) or len(set(tasks)) < len(tasks):
        raise PruneError(
            f"tasks are {brief(tasks, 80)}; allowed is a list of different tasks of the network: "
            f"{', '.join(gated.tasks)}."
        )
    if len(tasks) == len(gated.tasks):
        return gated
    some = copy.copy(gated)
    some.program = of_tasks(gated.program, tasks)
    return some
