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
from gate2static.prune import StaticModel, expected_macs, load_static, prune

__version__ = "0.1.0"

__all__ = [
    "GatedModel",
    "StaticModel",
    "expected_macs",
    "gate",
    "gate_decisions",
    "gate_parameters",
    "load_static",
    "prune",
    "set_gates",
    "sparsity_hinge",
    "weight_parameters",
]
