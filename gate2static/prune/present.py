"""The program of a gated model as the model is at present: its modules may have been replaced since it was gated."""

import copy

from gate2static.errors import PruneError
from gate2static.gates.channel_gate import Gate
from gate2static.gates.model import GatedModel
from gate2static.graphs import copied
from gate2static.program.program import retrace_heads
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
    signatures = {task: signature_of(gated.heads[task]) for task in gated.tasks}
    if signatures == gated.program.heads:
        return gated
    heads = {task: copied(gated.heads[task]).eval() for task in gated.tasks}
    present = copy.copy(gated)
    present.program = retrace_heads(gated.program, heads)
    return present
