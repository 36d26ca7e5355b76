"""gate2static: turns multi-task networks into one static network that does every task."""

from gate2static.bench import LatencyReport, Stopwatch, benchmark
from gate2static.budget import BudgetController, BudgetReport, project_to_budget
from gate2static.export import build_engine, export_onnx
from gate2static.gates import (
    GatedModel,
    gate,
    gate_decisions,
    gate_parameters,
    set_gates,
    sparsity_hinge,
    weight_parameters,
)
from gate2static.prune import expected_macs, prune
from gate2static.recipe import Budget
from gate2static.static import StaticModel, load_static
from gate2static.verify import EquivalenceReport, verify

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "BudgetController",
    "BudgetReport",
    "EquivalenceReport",
    "GatedModel",
    "LatencyReport",
    "StaticModel",
    "Stopwatch",
    "benchmark",
    "build_engine",
    "expected_macs",
    "export_onnx",
    "gate",
    "gate_decisions",
    "gate_parameters",
    "load_static",
    "project_to_budget",
    "prune",
    "set_gates",
    "sparsity_hinge",
    "verify",
    "weight_parameters",
]
