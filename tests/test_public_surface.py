"""The public surface is a contract: names, parameters and defaults change on purpose or not at all."""

import inspect
import subprocess
import sys

import pytest
from typer.main import get_command

import gate2static as g2s
from gate2static.cli.commands import app

FUNCTIONS = {
    "architecture": "(name, backbone, *, heads, example_inputs, places=None, **options)",
    "as_gated": "(architecture, example_inputs)",
    "balance": "(method, model, *, tasks=None, shared=None, at=None, scale=None, seed=0, **options)",
    "benchmark": (
        "(targets, *, backends=None, batch_size=1, rounds=5, warmup_s=0.2, duration_s=3.0, min_runs=10, threads=None, "
        "progress=True)"
    ),
    "build_engine": (
        "(onnx_path, engine_path, *, backend='tensorrt-rtx', compute_capabilities=None, batch=(1, 1, 8), "
        "workspace_bytes=None, timing_cache=None)"
    ),
    "conflict": "(losses, *, shared, features=None, temperature=None)",
    "decide_by_saliency": "(gated, batches, losses, *, prefix=False)",
    "expected_macs": "(gated, *, align=1)",
    "export_onnx": (
        "(static, path, *, opset=None, fold_norms=True, precision='fp32', batch_size=None, preprocess=False, "
        "argmax=False)"
    ),
    "freeze_gates": "(gated, budget=None, *, measure=None, target='any')",
    "gate": (
        "(backbone, *, tasks, example_inputs, heads, preset='paper', group_size=None, gate_init=None, "
        "gate_init_std=None, mixing=None, tie_residual=False, shared_state=None, task_states=None)"
    ),
    "gate_decisions": "(gated)",
    "gate_parameters": "(gated)",
    "gate_shares": "(gated, *, per_unit=False)",
    "load_checkpoint": "(path, model=None)",
    "load_static": "(folder)",
    "optimisers": "(gated, *, lr, steps, weight_decay=0.0, sparsity_weight=0.3, targets=0.0)",
    "plot_gates": "(gated, *, title='gates')",
    "project_to_budget": "(gated, budget, *, measure=None, target='any', progress=True)",
    "prune": "(gated, *, align=1, target='any', dtype=None, dynamic=(), tasks=None)",
    "ranking_similarity": "(first, second, *, draws=10000, seed=0)",
    "save_checkpoint": "(gated, path, *, model, options=None)",
    "search_branching": "(backbone, *, heads, example_inputs, batches, losses, macs, places='stages')",
    "set_gates": "(gated, decisions)",
    "sparsity_hinge": "(gated, *, targets)",
    "summary": "(gated)",
    "verify": "(gated, static, *, inputs=None)",
    "weight_parameters": "(gated)",
    "with_groups": "(gated, group_size)",
    "with_tasks": "(gated, tasks, *, heads=None)",
}
METHODS = {
    "Architecture": {
        "advance": "(self, progress)",
        "deployed": "(self)",
        "forward": "(self, *inputs, **named)",
        "parameter_groups": "(self, optimiser)",
        "penalty": "(self)",
    },
    "Balance": {
        "backward": "(self, losses, also=None, *, is_last=True, backward=None, loss_scale=1.0)",
        "end_epoch": "(self)",
        "load_state_dict": "(self, state)",
        "look_ahead": "(self, here, there, *, lr)",
        "remove": "(self)",
        "state_dict": "(self)",
        "step": "(self, losses_again)",
    },
    "BranchingSearch": {},
    "Budget": {"label": None},
    "BudgetController": {
        "load_state_dict": "(self, state)",
        "look": "(self, gated)",
        "penalty": "(self, gated, *, targets)",
        "state_dict": "(self)",
        "step": "(self, gated)",
    },
    "BudgetReport": {},
    "Conflict": {"values": "(self)"},
    "EquivalenceReport": {"passed": None, "per_task": None, "require": "(self)"},
    "GateOptimiser": {"step": "(self, closure=None)"},
    "GateSettling": {
        "load_state_dict": "(self, state)",
        "settle_all": "(self)",
        "share_settled": None,
        "state_dict": "(self)",
        "step": "(self)",
    },
    "GateSummary": {"to_dict": "(self)"},
    "GatedModel": {"forward": "(self, *inputs, **named)", "gates": None},
    "LatencyReport": {"to_json": "(self, path)"},
    "Optimisers": {"step": "(self)", "zero_grad": "(self)"},
    "RankingSimilarity": {},
    "StaticModel": {
        "check_inputs": "(self, inputs)",
        "example_inputs": "(self, batch_size=1)",
        "deployed": "(self)",
        "fold_norms": "(self)",
        "forward": "(self, *inputs)",
        "save": "(self, folder)",
        "tasks": None,
        "trainable": "(self, *, strict=True)",
    },
    "Stopwatch": {},
    "TrainableModel": {"forward": "(self, *inputs)", "static": "(self)", "tasks": None},
    "TaskTree": {},
}
COMMANDS = [
    "bench",
    "deliver",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "front",
    "new",
    "predict",
    "profile",
    "prune",
    "recipes",
    "report",
    "search",
    "suggest-targets",
    "sweep",
    "train",
    "verify",
]


def _parameters(function: object) -> str:
    """The signature without types."""
    signature = inspect.signature(function)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def test_the_package_names_what_it_offers() -> None:
    assert sorted(g2s.__all__) == sorted([*FUNCTIONS, *METHODS])
    assert all(hasattr(g2s, name) for name in g2s.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_takes_what_it_took(name: str) -> None:
    assert _parameters(getattr(g2s, name)) == FUNCTIONS[name]


@pytest.mark.parametrize(("name", "methods"), METHODS.items())
def test_a_public_class_offers_what_it_offered(name: str, methods: dict[str, str | None]) -> None:
    for method, parameters in methods.items():
        found = inspect.getattr_static(getattr(g2s, name), method)
        assert isinstance(found, property) if parameters is None else _parameters(found) == parameters


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_everything_public_is_documented(name: str) -> None:
    documented = [
        getattr(g2s, name),
        *(getattr(getattr(g2s, name), m) for m in METHODS.get(name, {}) if m != "forward"),
    ]
    assert all(inspect.getdoc(thing) for thing in documented)


def test_the_commands_are_those_of_the_design() -> None:
    assert sorted(get_command(app).commands) == COMMANDS


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = """
import sys
from gate2static.cli import main
sys.argv = ["gate2static", *sys.argv[1:]]
try:
    main()
finally:
    print("imported:", sorted({"torch", "numpy", "matplotlib"} & set(sys.modules)))
"""
    for args in (["--help"], ["--version"], ["prune", "--help"], ["front", "--help"]):
        finished = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        assert finished.stdout.splitlines()[-1] == "imported: []", args


def test_a_function_keeps_its_name_when_the_stage_of_that_name_is_imported() -> None:
    code = """
import gate2static as g2s
import gate2static.prune.pruning, gate2static.verify.equivalence
assert callable(g2s.prune) and callable(g2s.verify), (g2s.prune, g2s.verify)
import gate2static.static.model, sys
print([m for m in sys.modules if m.startswith("gate2static.train")])
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_a_static_network_loads_without_gates_programs_or_pruning() -> None:
    stages = ("gates", "program", "prune", "train", "bench")
    code = f"""
import gate2static as g2s, sys
g2s.load_static
print([m for m in sys.modules if m.startswith(tuple("gate2static." + s for s in {stages!r}))])
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
