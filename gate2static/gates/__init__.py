"""Gates: any traceable module becomes a `GatedModel` of T+1 streams."""

from gate2static.gates.channel_gate import Gate
from gate2static.gates.hinge import sparsity_hinge
from gate2static.gates.model import GatedModel, gate, gate_decisions, gate_parameters, set_gates, weight_parameters

__all__ = [
    "Gate",
    "GatedModel",
    "gate",
    "gate_decisions",
    "gate_parameters",
    "set_gates",
    "sparsity_hinge",
    "weight_parameters",
]
