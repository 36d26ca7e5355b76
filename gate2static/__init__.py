"""gate2static: turns multi-task networks into one static network that does every task."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate2static.architectures import Architecture, architecture, as_gated
    from gate2static.balance import (
        Balance,
        Conflict,
        RankingSimilarity,
        balance,
        conflict,
        ranking_similarity,
    )
    from gate2static.bench import LatencyReport, Stopwatch, benchmark
    from gate2static.budget import (
        BranchingSearch,
        BudgetController,
        BudgetReport,
        TaskTree,
        decide_by_saliency,
        freeze_gates,
        project_to_budget,
        search_branching,
    )
    from gate2static.export import build_engine, export_onnx
    from gate2static.gates import (
        GatedModel,
        GateOptimiser,
        GateSettling,
        Optimisers,
        gate,
        gate_decisions,
        gate_parameters,
        gate_shares,
        optimisers,
        set_gates,
        sparsity_hinge,
        weight_parameters,
        with_groups,
        with_tasks,
    )
    from gate2static.prune import GateSummary, expected_macs, prune, summary
    from gate2static.recipe import Budget
    from gate2static.report import plot_gates
    from gate2static.restore import load_checkpoint, save_checkpoint
    from gate2static.static import StaticModel, TrainableModel, load_static
    from gate2static.verify import EquivalenceReport, verify

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Balance",
    "BranchingSearch",
    "Budget",
    "BudgetController",
    "BudgetReport",
    "Conflict",
    "EquivalenceReport",
    "GateOptimiser",
    "GateSettling",
    "GateSummary",
    "GatedModel",
    "LatencyReport",
    "Optimisers",
    "RankingSimilarity",
    "StaticModel",
    "Stopwatch",
    "TaskTree",
    "TrainableModel",
    "architecture",
    "as_gated",
    "balance",
    "benchmark",
    "build_engine",
    "conflict",
    "decide_by_saliency",
    "expected_macs",
    "export_onnx",
    "freeze_gates",
    "gate",
    "gate_decisions",
    "gate_parameters",
    "gate_shares",
    "load_checkpoint",
    "load_static",
    "optimisers",
    "plot_gates",
    "project_to_budget",
    "prune",
    "ranking_similarity",
    "save_checkpoint",
    "search_branching",
    "set_gates",
    "sparsity_hinge",
    "summary",
    "verify",
    "weight_parameters",
    "with_groups",
    "with_tasks",
]

_STAGES = {
    "architectures": ("Architecture", "architecture", "as_gated"),
    "balance": ("Balance", "Conflict", "RankingSimilarity", "balance", "conflict", "ranking_similarity"),
    "bench": ("LatencyReport", "Stopwatch", "benchmark"),
    "budget": (
        "BranchingSearch",
        "BudgetController",
        "BudgetReport",
        "TaskTree",
        "decide_by_saliency",
        "freeze_gates",
        "project_to_budget",
        "search_branching",
    ),
    "export": ("build_engine", "export_onnx"),
    "gates": (
        "GateOptimiser",
        "GateSettling",
        "GatedModel",
        "Optimisers",
        "gate",
        "gate_decisions",
        "gate_parameters",
        "gate_shares",
        "optimisers",
        "set_gates",
        "sparsity_hinge",
        "weight_parameters",
        "with_groups",
        "with_tasks",
    ),
    "prune": ("GateSummary", "expected_macs", "prune", "summary"),
    "recipe": ("Budget",),
    "report": ("plot_gates",),
    "restore": ("load_checkpoint", "save_checkpoint"),
    "static": ("StaticModel", "TrainableModel", "load_static"),
    "verify": ("EquivalenceReport", "verify"),
}
_STAGE_OF = {name: stage for stage, names in _STAGES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports the stage of a public name when it is first used: `gate2static --help` needs no torch."""
    if name not in _STAGE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_STAGE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names, whether used yet or not."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package. `prune` and `verify` are its functions, although the stages that they live in have these names."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute, but not where importing a stage would put the stage in place of a function."""
        if not (name in _STAGE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
