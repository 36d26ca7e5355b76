"""gate2static: turns multi-task networks into the fastest static network that still does every task."""

from gate2static.gates import (
    GatedModel,
    gate,
    gate_decisions,
    gate_parameters,
    set_gates,
    sparsity_hinge,
    weight_parameters,
)

__version__ = "0.1.0"

__all__ = [
    "GatedModel",
    "gate",
    "gate_decisions",
    "gate_parameters",
    "set_gates",
    "sparsity_hinge",
    "weight_parameters",
]
