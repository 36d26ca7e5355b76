"""From a `Program` to a `GatedModel`: any traceable module with T+1 streams and gates between them.

`gate` checks its arguments, traces the backbone, lifts the program to T+1 streams with a gate behind each unit, and
compares the lifted network with the backbone. `sparsity_hinge` pulls gates towards sharing while the model trains.
"""

from gate2static.gates.changing.group_size import with_groups
from gate2static.gates.changing.task_set import with_tasks
from gate2static.gates.channel_gate import Gate
from gate2static.gates.gating import gate
from gate2static.gates.hinge import sparsity_hinge
from gate2static.gates.model import (
    GatedModel,
    gate_decisions,
    gate_parameters,
    gated_model,
    set_gates,
    weight_parameters,
)
from gate2static.gates.optimiser import GateOptimiser, Optimisers, optimisers
from gate2static.gates.settled.settling import GateSettling
from gate2static.gates.shares import gate_shares

__all__ = [
    "Gate",
    "GateOptimiser",
    "GateSettling",
    "GatedModel",
    "Optimisers",
    "gate",
    "gate_decisions",
    "gate_parameters",
    "gate_shares",
    "gated_model",
    "optimisers",
    "set_gates",
    "sparsity_hinge",
    "weight_parameters",
    "with_groups",
    "with_tasks",
]
