"""Odd calls of the public functions: each works, or raises an error of this package that says what to do.

Of 227 odd calls 61 ended in an error of torch or Python.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gate2static as g2s
from gate2static.errors import Gate2StaticError
from gate2static.latency import latency_model, predict

NAN = float("nan")
X = torch.randn(2, 3, 8, 8)


def backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


def heads(*tasks: Any) -> dict[Any, nn.Module]:
    return {task: nn.Conv2d(8, 2, 1) for task in tasks or ("a", "b")}


def gate(**changes: Any) -> Any:
    arguments = {"tasks": ["a", "b"], "example_inputs": (X,), "heads": heads()} | changes
    return g2s.gate(arguments.pop("backbone", backbone()), **arguments)


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A gated and a static network, a folder for files, and some files."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gated = gate().eval()
        folder = tmp_path_factory.mktemp("misuse")
        static = g2s.prune(gated)
        static.save(folder / "static")
        (folder / "file").write_text("theirs")
        (folder / "empty").mkdir()
        report = g2s.benchmark([static], rounds=1, warmup_s=0, duration_s=0, min_runs=1, progress=False)
        return SimpleNamespace(gated=gated, static=static, folder=folder, plain=backbone(), report=report)


class Half(nn.Module):
    """A module around a gated model, such as Lightning's."""

    def __init__(self, gated: Any) -> None:
        super().__init__()
        self.network = gated

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


class Cuts(nn.Module):
    """A backbone whose output depends on nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 8, 8, 8)


def quick(at: SimpleNamespace, *targets: Any, **options: Any) -> Any:
    arguments = {"rounds": 1, "warmup_s": 0, "duration_s": 0, "min_runs": 1, "progress": False} | options
    return g2s.benchmark(*(targets or ([at.static],)), **arguments)


def controller(at: SimpleNamespace, *arguments: Any, **changes: Any) -> Any:
    given = arguments or (at.gated, g2s.Budget(macs=0.9))
    return g2s.BudgetController(*given, **({"epochs": 1, "epoch_steps": 1} | changes))


def save_own(at: SimpleNamespace, path: Any) -> Any:
    return g2s.save_checkpoint(at.gated, at.folder / path if isinstance(path, Path) else path, model="a:b")


def load_own(at: SimpleNamespace, model: Any) -> Any:
    g2s.save_checkpoint(at.gated, at.folder / "loaded.pt", model="a:b")
    return g2s.load_checkpoint(at.folder / "loaded.pt", model=model)


Case = Callable[[SimpleNamespace], Any]
CASES: dict[str, Case] = {
    # ------------------------------------------------------------------ gate
    "gate: backbone None": lambda at: gate(backbone=None),
    "gate: backbone a class": lambda at: gate(backbone=nn.ReLU),
    "gate: backbone a function": lambda at: gate(backbone=torch.relu),
    "gate: backbone a state dict": lambda at: gate(backbone=at.plain.state_dict()),
    "gate: backbone gated already": lambda at: gate(backbone=at.gated),
    "gate: backbone static": lambda at: gate(backbone=at.static),
    "gate: backbone without parameters": lambda at: gate(backbone=nn.ReLU()),
    "gate: backbone that ignores its input": lambda at: gate(backbone=Cuts()),
    "gate: backbone in integers": lambda at: gate(backbone=nn.Embedding(4, 8), example_inputs=(X,)),
    "gate: backbone in complex numbers": lambda at: gate(backbone=backbone().to(torch.complex64)),
    "gate: backbone in float64, inputs in float32": lambda at: gate(backbone=backbone().double()),
    "gate: backbone in half, inputs in float32": lambda at: gate(backbone=backbone().half()),
    "gate: backbone with NaN weights": lambda at: gate(backbone=nn.Sequential(with_nan(nn.Conv2d(3, 8, 1)))),
    "gate: no tasks": lambda at: gate(tasks=[], heads={}),
    "gate: tasks None": lambda at: gate(tasks=None),
    "gate: tasks a string": lambda at: gate(tasks="ab"),
    "gate: tasks a number": lambda at: gate(tasks=2),
    "gate: tasks twice": lambda at: gate(tasks=["a", "a"]),
    "gate: tasks numbers": lambda at: gate(tasks=[1, 2], heads=heads(1, 2)),
    "gate: tasks lists": lambda at: gate(tasks=[["a"], ["b"]]),
    "gate: tasks None inside": lambda at: gate(tasks=["a", None], heads=heads("a", None)),
    "gate: tasks a dict": lambda at: gate(tasks={"a": 1, "b": 2}),
    "gate: tasks a set": lambda at: gate(tasks={"a", "b"}),
    "gate: tasks a generator": lambda at: gate(tasks=(task for task in "ab")),
    "gate: a task with an empty name": lambda at: gate(tasks=[""], heads=heads("")),
    "gate: a task with a dot": lambda at: gate(tasks=["a.b"], heads=heads("a.b")),
    "gate: a task called shared": lambda at: gate(tasks=["shared"], heads=heads("shared")),
    "gate: a task called keys": lambda at: gate(tasks=["keys"], heads=heads("keys")),
    "gate: a very long task": lambda at: gate(tasks=["a" * 10_000], heads=heads("a" * 10_000)),
    "gate: a head missing": lambda at: gate(heads=heads("a")),
    "gate: a head too many": lambda at: gate(heads=heads("a", "b", "c")),
    "gate: heads None": lambda at: gate(heads=None),
    "gate: heads a list": lambda at: gate(heads=[nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)]),
    "gate: heads a ModuleDict": lambda at: gate(heads=nn.ModuleDict(heads())),
    "gate: heads functions": lambda at: gate(heads={"a": torch.relu, "b": torch.relu}),
    "gate: heads classes": lambda at: gate(heads={"a": nn.ReLU, "b": nn.ReLU}),
    "gate: heads for other channels": lambda at: gate(heads={"a": nn.Conv2d(9, 2, 1), "b": nn.Conv2d(9, 2, 1)}),
    "gate: heads in float64": lambda at: gate(heads={task: head.double() for task, head in heads().items()}),
    "gate: inputs None": lambda at: gate(example_inputs=None),
    "gate: inputs a tensor": lambda at: gate(example_inputs=X),
    "gate: inputs empty": lambda at: gate(example_inputs=()),
    "gate: inputs a list": lambda at: gate(example_inputs=[X]),
    "gate: inputs a dict": lambda at: gate(example_inputs={"x": X}),
    "gate: inputs of NumPy": lambda at: gate(example_inputs=(X.numpy(),)),
    "gate: inputs shapes": lambda at: gate(example_inputs=((2, 3, 8, 8),)),
    "gate: inputs too many": lambda at: gate(example_inputs=(X, X)),
    "gate: inputs of NaN": lambda at: gate(example_inputs=(X * NAN,)),
    "gate: inputs with one infinity": lambda at: gate(example_inputs=(torch.full_like(X, float("inf")),)),
    "gate: inputs without a batch": lambda at: gate(example_inputs=(X[0],)),
    "gate: inputs of one number": lambda at: gate(example_inputs=(torch.tensor(1.0),)),
    "gate: inputs with a batch of 0": lambda at: gate(example_inputs=(X[:0],)),
    "gate: inputs with a batch of 1": lambda at: gate(example_inputs=(X[:1],)),
    "gate: inputs of other channels": lambda at: gate(example_inputs=(torch.randn(2, 4, 8, 8),)),
    "gate: inputs of integers": lambda at: gate(example_inputs=(torch.zeros(2, 3, 8, 8, dtype=torch.int64),)),
    "gate: inputs of bytes": lambda at: gate(example_inputs=(torch.zeros(2, 3, 8, 8, dtype=torch.uint8),)),
    "gate: inputs in half": lambda at: gate(example_inputs=(X.half(),)),
    "gate: inputs on the meta device": lambda at: gate(example_inputs=(X.to("meta"),)),
    "gate: inputs sparse": lambda at: gate(example_inputs=(X.to_sparse(),)),
    "gate: inputs that need gradients": lambda at: gate(example_inputs=(X.clone().requires_grad_(),)),
    "gate: group_size 0": lambda at: gate(group_size=0),
    "gate: group_size -1": lambda at: gate(group_size=-1),
    "gate: group_size 1.5": lambda at: gate(group_size=1.5),
    "gate: group_size True": lambda at: gate(group_size=True),
    "gate: group_size None": lambda at: gate(group_size=None),
    "gate: group_size a string": lambda at: gate(group_size="8"),
    "gate: group_size huge": lambda at: gate(group_size=10**18),
    "gate: group_size beyond int64": lambda at: gate(group_size=10**30),
    "gate: group_size NaN": lambda at: gate(group_size=NAN),
    "gate: gate_init NaN": lambda at: gate(gate_init=NAN),
    "gate: gate_init infinite": lambda at: gate(gate_init=float("inf")),
    "gate: gate_init a string": lambda at: gate(gate_init="0.05"),
    "gate: gate_init None": lambda at: gate(gate_init=None),
    "gate: gate_init_std -1": lambda at: gate(gate_init_std=-1.0),
    "gate: gate_init_std NaN": lambda at: gate(gate_init_std=NAN),
    "gate: gate_init_std a tensor": lambda at: gate(gate_init_std=torch.ones(3)),
    "gate: mixing unknown": lambda at: gate(mixing="soft"),
    "gate: mixing None": lambda at: gate(mixing=None),
    "gate: mixing a list": lambda at: gate(mixing=["softmax"]),
    "gate: tie_residual a string": lambda at: gate(tie_residual="yes"),
    "gate: shared_state a module": lambda at: gate(shared_state=backbone()),
    "gate: shared_state of another": lambda at: gate(shared_state=nn.Linear(2, 2).state_dict()),
    "gate: shared_state a list": lambda at: gate(shared_state=[1]),
    "gate: shared_state of numbers": lambda at: gate(shared_state=dict.fromkeys(at.plain.state_dict(), 1)),
    "gate: task_states one state": lambda at: gate(task_states=at.plain.state_dict()),
    "gate: task_states modules": lambda at: gate(task_states={"a": backbone()}),
    "gate: task_states a list": lambda at: gate(task_states=[at.plain.state_dict()]),
    # ------------------------------------------------------------------ calls of a gated model
    "gated: nothing": lambda at: at.gated(),
    "gated: two inputs": lambda at: at.gated(X, X),
    "gated: None": lambda at: at.gated(None),
    "gated: a list": lambda at: at.gated([X]),
    "gated: NumPy": lambda at: at.gated(X.numpy()),
    "gated: a string": lambda at: at.gated("image.png"),
    "gated: float64": lambda at: at.gated(X.double()),
    "gated: half": lambda at: at.gated(X.half()),
    "gated: bytes": lambda at: at.gated(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)),
    "gated: without a batch": lambda at: at.gated(X[0]),
    "gated: another rank": lambda at: at.gated(X[None]),
    "gated: one number": lambda at: at.gated(torch.tensor(1.0)),
    "gated: other channels": lambda at: at.gated(torch.randn(2, 4, 8, 8)),
    "gated: channels last in order": lambda at: at.gated(X.permute(0, 2, 3, 1)),
    "gated: an empty batch": lambda at: at.gated(X[:0]),
    "gated: on the meta device": lambda at: at.gated(X.to("meta")),
    "gated: a keyword that there is not": lambda at: at.gated(picture=X),
    # ------------------------------------------------------------------ hinge and gates
    **{
        f"{name}: {kind}": (lambda at, f=function, k=kind: f(at, odd(at)[k]))
        for name, function in {
            "sparsity_hinge": lambda at, value: g2s.sparsity_hinge(value, targets={"a": 0.5, "b": 0.5}),
            "set_gates": lambda at, value: g2s.set_gates(value, True),
            "gate_decisions": lambda at, value: g2s.gate_decisions(value),
            "gate_parameters": lambda at, value: g2s.gate_parameters(value),
            "weight_parameters": lambda at, value: g2s.weight_parameters(value),
            "expected_macs": lambda at, value: g2s.expected_macs(value),
            "prune": lambda at, value: g2s.prune(value),
            "verify": lambda at, value: g2s.verify(value, at.static),
            "save_checkpoint": lambda at, value: g2s.save_checkpoint(value, at.folder / "own.pt", model="a:b"),
            "save_checkpoint, path": lambda at, value: save_own(at, value),
            "save_checkpoint, model": lambda at, value: g2s.save_checkpoint(at.gated, at.folder / "o.pt", model=value),
            "load_checkpoint": lambda at, value: g2s.load_checkpoint(value),
            "load_checkpoint, model": lambda at, value: load_own(at, value),
            "project_to_budget": lambda at, value: g2s.project_to_budget(value, g2s.Budget(macs=0.9)),
            "BudgetController": lambda at, value: controller(at, value, g2s.Budget(macs=0.9)),
        }.items()
        for kind in ("a module", "a static network", "None", "a path", "a class", "a state dict", "a wrapper")
    },
    **{
        f"{name}: {kind}": (lambda at, f=function, k=kind: f(at, odd(at)[k]))
        for name, function in {
            "verify, static": lambda at, value: g2s.verify(at.gated, value),
            "export_onnx": lambda at, value: g2s.export_onnx(value, at.folder / "odd.onnx"),
            "benchmark": lambda at, value: quick(at, [value]),
            "Stopwatch": lambda at, value: g2s.Stopwatch("torch", rounds=1, duration_s=0.0)(value),
        }.items()
        for kind in ("a module", "a gated model", "None", "a number", "a class", "a state dict")
    },
    "sparsity_hinge: targets None": lambda at: g2s.sparsity_hinge(at.gated, targets=None),
    "sparsity_hinge: targets a number": lambda at: g2s.sparsity_hinge(at.gated, targets=0.5),
    "sparsity_hinge: targets a list": lambda at: g2s.sparsity_hinge(at.gated, targets=[0.5, 0.5]),
    "sparsity_hinge: a target missing": lambda at: g2s.sparsity_hinge(at.gated, targets={"a": 0.5}),
    "sparsity_hinge: a target above 1": lambda at: g2s.sparsity_hinge(at.gated, targets={"a": 1.5, "b": 0}),
    "sparsity_hinge: a target below 0": lambda at: g2s.sparsity_hinge(at.gated, targets={"a": -0.1, "b": 0}),
    "sparsity_hinge: a target NaN": lambda at: g2s.sparsity_hinge(at.gated, targets={"a": NAN, "b": 0}),
    "sparsity_hinge: a target a string": lambda at: g2s.sparsity_hinge(at.gated, targets={"a": "0.5", "b": 0}),
    "sparsity_hinge: a target None": lambda at: g2s.sparsity_hinge(at.gated, targets={"a": None, "b": 0}),
    "sparsity_hinge: a target a tensor": lambda at: g2s.sparsity_hinge(at.gated, targets={"a": torch.ones(2), "b": 0}),
    "set_gates: None": lambda at: g2s.set_gates(at.gated, None),
    "set_gates: a number": lambda at: g2s.set_gates(at.gated, 1),
    "set_gates: a tensor": lambda at: g2s.set_gates(at.gated, torch.ones(2, 8, dtype=torch.bool)),
    "set_gates: a list": lambda at: g2s.set_gates(at.gated, [True]),
    "set_gates: an unknown unit": lambda at: g2s.set_gates(at.gated, {"nowhere": torch.ones(2, 8).bool()}),
    "set_gates: a bool in a unit": lambda at: g2s.set_gates(at.gated, dict.fromkeys(at.gated.gates, True)),
    "set_gates: NumPy": lambda at: g2s.set_gates(at.gated, dict.fromkeys(at.gated.gates, np.ones((2, 8), bool))),
    "set_gates: another shape": lambda at: g2s.set_gates(at.gated, dict.fromkeys(at.gated.gates, torch.ones(3).bool())),
    "set_gates: another dtype": lambda at: g2s.set_gates(at.gated, dict.fromkeys(at.gated.gates, torch.ones(2, 8))),
    "set_gates: swapped": lambda at: g2s.set_gates(True, at.gated),
    # ------------------------------------------------------------------ prune and verify
    "prune: align 0": lambda at: g2s.prune(at.gated, align=0),
    "prune: align -8": lambda at: g2s.prune(at.gated, align=-8),
    "prune: align 1.5": lambda at: g2s.prune(at.gated, align=1.5),
    "prune: align None": lambda at: g2s.prune(at.gated, align=None),
    "prune: align a string": lambda at: g2s.prune(at.gated, align="8"),
    "prune: align huge": lambda at: g2s.prune(at.gated, align=10**18),
    "prune: align beyond int64": lambda at: g2s.prune(at.gated, align=10**30),
    "prune: target unknown": lambda at: g2s.prune(at.gated, target="tpu"),
    "prune: target None": lambda at: g2s.prune(at.gated, target=None),
    "prune: target a list": lambda at: g2s.prune(at.gated, target=["any"]),
    "prune: dtype a string": lambda at: g2s.prune(at.gated, dtype="float16"),
    "prune: dtype another string": lambda at: g2s.prune(at.gated, dtype="fp16"),
    "prune: dtype with its module": lambda at: g2s.prune(at.gated, dtype="torch.float16"),
    "prune: dtype of integers": lambda at: g2s.prune(at.gated, dtype=torch.int8),
    "prune: dtype complex": lambda at: g2s.prune(at.gated, dtype=torch.complex64),
    "prune: dtype float": lambda at: g2s.prune(at.gated, dtype=float),
    "prune: dtype of NumPy": lambda at: g2s.prune(at.gated, dtype=np.float16),
    "prune: dtype float8": lambda at: g2s.prune(at.gated, dtype=torch.float8_e4m3fn),
    "prune: NaN weights": lambda at: g2s.prune(with_nan(gate().eval())),
    "verify: swapped": lambda at: g2s.verify(at.static, at.gated),
    "verify: gated twice": lambda at: g2s.verify(at.gated, at.gated),
    "verify: static a folder": lambda at: g2s.verify(at.gated, at.folder / "static"),
    "verify: no inputs": lambda at: g2s.verify(at.gated, at.static, inputs=[]),
    "verify: inputs a tensor": lambda at: g2s.verify(at.gated, at.static, inputs=X),
    "verify: inputs a tuple of tensors": lambda at: g2s.verify(at.gated, at.static, inputs=(X,)),
    "verify: inputs a number": lambda at: g2s.verify(at.gated, at.static, inputs=3),
    "verify: inputs None inside": lambda at: g2s.verify(at.gated, at.static, inputs=[(None,)]),
    "verify: inputs too many": lambda at: g2s.verify(at.gated, at.static, inputs=[(X, X)]),
    "verify: inputs of another size": lambda at: g2s.verify(at.gated, at.static, inputs=[(torch.randn(2, 3, 9, 9),)]),
    "verify: inputs of other channels": lambda at: g2s.verify(at.gated, at.static, inputs=[(torch.randn(2, 4, 8, 8),)]),
    "verify: inputs of NaN": lambda at: g2s.verify(at.gated, at.static, inputs=[(X * NAN,)]),
    "verify: inputs in float64": lambda at: g2s.verify(at.gated, at.static, inputs=[(X.double(),)]),
    "verify: inputs of integers": lambda at: g2s.verify(at.gated, at.static, inputs=[(X.long(),)]),
    "verify: an empty batch": lambda at: g2s.verify(at.gated, at.static, inputs=[(X[:0],)]),
    "verify: of another network": lambda at: g2s.verify(gate(tasks=["a"], heads=heads("a")), at.static),
    # ------------------------------------------------------------------ static networks
    "static: nothing": lambda at: at.static(),
    "static: two inputs": lambda at: at.static(X, X),
    "static: None": lambda at: at.static(None),
    "static: NumPy": lambda at: at.static(X.numpy()),
    "static: a list": lambda at: at.static([X]),
    "static: float64": lambda at: at.static(X.double()),
    "static: half": lambda at: at.static(X.half()),
    "static: integers": lambda at: at.static(X.long()),
    "static: another size": lambda at: at.static(torch.randn(2, 3, 9, 9)),
    "static: without a batch": lambda at: at.static(X[0]),
    "static: one number": lambda at: at.static(torch.tensor(1.0)),
    "static: by name": lambda at: at.static(image=X),
    "static: in half, inputs in float32": lambda at: g2s.prune(at.gated, dtype="float16")(X),
    "static: on the meta device": lambda at: at.static(X.to("meta")),
    "static: an empty batch": lambda at: at.static(X[:0]),
    "static: example inputs 0": lambda at: at.static.example_inputs(0),
    "static: example inputs -1": lambda at: at.static.example_inputs(-1),
    "static: example inputs 1.5": lambda at: at.static.example_inputs(1.5),
    "static: example inputs None": lambda at: at.static.example_inputs(None),
    "static: example inputs huge": lambda at: at.static.example_inputs(10**14),
    "static: example inputs beyond int64": lambda at: at.static.example_inputs(10**30),
    "static: save None": lambda at: at.static.save(None),
    "static: save a number": lambda at: at.static.save(3),
    "static: save an empty path": lambda at: at.static.save(""),
    "static: save with a null character": lambda at: at.static.save("a\0b"),
    "static: save onto a file": lambda at: at.static.save(at.folder / "file"),
    "static: save below a file": lambda at: at.static.save(at.folder / "file" / "static"),
    "static: save a very long path": lambda at: at.static.save(at.folder / ("a" * 5_000)),
    "static: save to /proc": lambda at: at.static.save("/proc/static"),
    "load_static: None": lambda at: g2s.load_static(None),
    "load_static: a number": lambda at: g2s.load_static(3),
    "load_static: bytes": lambda at: g2s.load_static(b"static"),
    "load_static: a network": lambda at: g2s.load_static(at.static),
    "load_static: nowhere": lambda at: g2s.load_static("nowhere"),
    "load_static: an empty path": lambda at: g2s.load_static(""),
    "load_static: a file": lambda at: g2s.load_static(at.folder / "file"),
    "load_static: an empty folder": lambda at: g2s.load_static(at.folder / "empty"),
    "load_static: a null character": lambda at: g2s.load_static("a\0b"),
    # ------------------------------------------------------------------ export and engines
    "export_onnx: swapped": lambda at: g2s.export_onnx(at.folder / "odd.onnx", at.static),
    "export_onnx: a folder": lambda at: g2s.export_onnx(at.static, at.folder / "empty"),
    "export_onnx: path None": lambda at: g2s.export_onnx(at.static, None),
    "export_onnx: path a number": lambda at: g2s.export_onnx(at.static, 3),
    "export_onnx: an empty path": lambda at: g2s.export_onnx(at.static, ""),
    "export_onnx: a null character": lambda at: g2s.export_onnx(at.static, "a\0b"),
    "export_onnx: opset 3": lambda at: g2s.export_onnx(at.static, at.folder / "o.onnx", opset=3),
    "export_onnx: opset 999": lambda at: g2s.export_onnx(at.static, at.folder / "o.onnx", opset=999),
    "export_onnx: opset a string": lambda at: g2s.export_onnx(at.static, at.folder / "o.onnx", opset="18"),
    "export_onnx: opset 18.5": lambda at: g2s.export_onnx(at.static, at.folder / "o.onnx", opset=18.5),
    "export_onnx: precision int8": lambda at: g2s.export_onnx(at.static, at.folder / "o.onnx", precision="int8"),
    "export_onnx: precision a dtype": lambda at: g2s.export_onnx(at.static, at.folder / "o", precision=torch.float16),
    "export_onnx: precision None": lambda at: g2s.export_onnx(at.static, at.folder / "o.onnx", precision=None),
    "build_engine: nowhere": lambda at: g2s.build_engine("nowhere.onnx", at.folder / "e"),
    "build_engine: None": lambda at: g2s.build_engine(None, None),
    "build_engine: a network": lambda at: g2s.build_engine(at.static, at.folder / "e"),
    "build_engine: a folder": lambda at: g2s.build_engine(at.folder, at.folder / "e"),
    "build_engine: no ONNX file": lambda at: g2s.build_engine(at.folder / "file", at.folder / "e"),
    "build_engine: backend unknown": lambda at: g2s.build_engine("x.onnx", at.folder / "e", backend="tpu"),
    "build_engine: backend None": lambda at: g2s.build_engine("x.onnx", at.folder / "e", backend=None),
    # ------------------------------------------------------------------ benchmarks
    "benchmark: nothing": lambda at: quick(at, []),
    "benchmark: nothing by name": lambda at: quick(at, {}),
    "benchmark: a string": lambda at: quick(at, "nowhere.onnx"),
    "benchmark: a network alone": lambda at: quick(at, at.static),
    "benchmark: None alone": lambda at: quick(at, None),
    "benchmark: nowhere": lambda at: quick(at, ["nowhere.onnx"]),
    "benchmark: a folder of nothing": lambda at: quick(at, [at.folder / "empty"]),
    "benchmark: a file of nothing": lambda at: quick(at, [at.folder / "file"]),
    "benchmark: a null character": lambda at: quick(at, ["a\0b.onnx"]),
    "benchmark: an empty path": lambda at: quick(at, [""]),
    "benchmark: a module without inputs": lambda at: quick(at, [(at.plain,)]),
    "benchmark: a module and a tensor": lambda at: quick(at, [(at.plain, X)]),
    "benchmark: a module and no tensors": lambda at: quick(at, [(at.plain, ())]),
    "benchmark: a module and other channels": lambda at: quick(at, [(at.plain, (torch.randn(1, 4, 8, 8),))]),
    "benchmark: a module and numbers": lambda at: quick(at, [(at.plain, (1, 2))]),
    "benchmark: names that are numbers": lambda at: quick(at, {1: at.static}),
    "benchmark: backend unknown": lambda at: quick(at, [at.static], backends=["tpu"]),
    "benchmark: backend a string": lambda at: quick(at, [at.static], backends="torch"),
    "benchmark: backend None inside": lambda at: quick(at, [at.static], backends=[None]),
    "benchmark: no backend": lambda at: quick(at, [at.static], backends=[]),
    "benchmark: batch_size 0": lambda at: quick(at, batch_size=0),
    "benchmark: batch_size 1.5": lambda at: quick(at, batch_size=1.5),
    "benchmark: batch_size a string": lambda at: quick(at, batch_size="8"),
    "benchmark: batch_size huge": lambda at: quick(at, batch_size=10**13),
    "benchmark: batch_size beyond int64": lambda at: quick(at, batch_size=10**30),
    "benchmark: rounds 0": lambda at: quick(at, rounds=0),
    "benchmark: rounds 1.5": lambda at: quick(at, rounds=1.5),
    "benchmark: rounds None": lambda at: quick(at, rounds=None),
    "benchmark: rounds NaN": lambda at: quick(at, rounds=NAN),
    "benchmark: duration NaN": lambda at: quick(at, duration_s=NAN),
    "benchmark: duration infinite": lambda at: quick(at, duration_s=float("inf")),
    "benchmark: duration -1": lambda at: quick(at, duration_s=-1),
    "benchmark: duration a string": lambda at: quick(at, duration_s="3"),
    "benchmark: warmup None": lambda at: quick(at, warmup_s=None),
    "benchmark: min_runs 0": lambda at: quick(at, min_runs=0),
    "benchmark: threads 0": lambda at: quick(at, threads=0),
    "benchmark: threads 1.5": lambda at: quick(at, threads=1.5),
    "benchmark: threads huge": lambda at: quick(at, threads=10**9),
    "Stopwatch: backend None": lambda at: g2s.Stopwatch(None),
    "Stopwatch: backend a list": lambda at: g2s.Stopwatch(["torch"]),
    "Stopwatch: rounds 0": lambda at: g2s.Stopwatch("torch", rounds=0)(at.static),
    "LatencyReport: to a folder": lambda at: at.report.to_json(at.folder / "empty"),
    "LatencyReport: to None": lambda at: at.report.to_json(None),
    "LatencyReport: from nowhere": lambda at: g2s.LatencyReport.from_json("nowhere"),
    "LatencyReport: from a folder": lambda at: g2s.LatencyReport.from_json(at.folder),
    "LatencyReport: from None": lambda at: g2s.LatencyReport.from_json(None),
    # ------------------------------------------------------------------ budgets and predictions
    "Budget: nothing": lambda at: g2s.Budget(),
    "Budget: a number alone": lambda at: g2s.Budget(0.5),
    "Budget: two kinds": lambda at: g2s.Budget(macs=0.5, latency_ms=3.0),
    "Budget: macs 0": lambda at: g2s.Budget(macs=0),
    "Budget: macs -1": lambda at: g2s.Budget(macs=-1),
    "Budget: macs NaN": lambda at: g2s.Budget(macs=NAN),
    "Budget: macs infinite": lambda at: g2s.Budget(macs=float("inf")),
    "Budget: macs a string": lambda at: g2s.Budget(macs="0.5"),
    "Budget: macs True": lambda at: g2s.Budget(macs=True),
    "Budget: macs empty": lambda at: g2s.Budget(macs={}),
    "Budget: an unknown key": lambda at: g2s.Budget(flops=1.0),
    "Budget: no device": lambda at: g2s.Budget(latency_ms=3.0),
    "Budget: latency above 1": lambda at: g2s.Budget(latency=2.0, device="a100"),
    "project_to_budget: budget a number": lambda at: g2s.project_to_budget(gate(), 0.5),
    "project_to_budget: budget a dict": lambda at: g2s.project_to_budget(gate(), {"macs": 0.5}),
    "project_to_budget: budget None": lambda at: g2s.project_to_budget(gate(), None),
    "project_to_budget: swapped": lambda at: g2s.project_to_budget(g2s.Budget(macs=0.5), gate()),
    "project_to_budget: unreachable": lambda at: g2s.project_to_budget(gate(), g2s.Budget(macs=0.001)),
    "project_to_budget: an unknown task": lambda at: g2s.project_to_budget(gate(), g2s.Budget(macs={"c": 0.5})),
    "project_to_budget: an unknown device": lambda at: g2s.project_to_budget(
        gate(), g2s.Budget(latency=0.9, device="toaster")
    ),
    "project_to_budget: a target alone": lambda at: g2s.project_to_budget(gate(), g2s.Budget(macs=0.9), target="trt"),
    "project_to_budget: measure no function": lambda at: g2s.project_to_budget(
        gate(), g2s.Budget(latency=0.9, device="torch"), measure=3
    ),
    "BudgetController: budget a number": lambda at: controller(at, at.gated, 0.5),
    "BudgetController: epochs 0": lambda at: controller(at, epochs=0),
    "BudgetController: epochs None": lambda at: controller(at, epochs=None),
    "BudgetController: epochs a string": lambda at: controller(at, epochs="3"),
    "BudgetController: epoch_steps 1.5": lambda at: controller(at, epoch_steps=1.5),
    "BudgetController: weight NaN": lambda at: controller(at, weight=NAN),
    "BudgetController: weight a string": lambda at: controller(at, weight="0.1"),
    "BudgetController: step of a module": lambda at: controller(at).step(at.plain),
    "BudgetController: look at a module": lambda at: controller(at).look(at.plain),
    "BudgetController: penalty of a module": lambda at: controller(at).penalty(at.plain, targets={"a": 0, "b": 0}),
    "BudgetController: penalty without targets": lambda at: controller(at).penalty(at.gated, targets={}),
    "BudgetController: an odd state": lambda at: controller(at).load_state_dict({"step": 1}),
    "BudgetController: no state": lambda at: controller(at).load_state_dict(None),
    "predict: a gated model": lambda at: predict(at.gated, (X,), latency_model("a100")),
    "predict: a tensor": lambda at: predict(at.static, X, latency_model("a100")),
    "predict: no inputs": lambda at: predict(at.static, (), latency_model("a100")),
    "predict: other channels": lambda at: predict(at.static, (torch.randn(1, 4, 8, 8),), latency_model("a100")),
    "predict: a name": lambda at: predict(at.static, (X,), "a100"),
    "latency_model: an unknown device": lambda at: latency_model("toaster"),
    "latency_model: None": lambda at: latency_model(None),
    "latency_model: an empty name": lambda at: latency_model(""),
    "latency_model: a folder": lambda at: latency_model(str(at.folder)),
    "latency_model: a null character": lambda at: latency_model("a\0b"),
    "an attribute that there is not": lambda at: getattr(g2s, "Gate", None),
}


def with_nan(module: nn.Module) -> nn.Module:
    """Puts one NaN into a module's first parameter."""
    with torch.no_grad():
        next(module.parameters()).flatten()[0] = NAN
    return module


def odd(at: SimpleNamespace) -> dict[str, Any]:
    """Returns what people pass instead of a gated or a static network."""
    return {
        "a module": at.plain,
        "a gated model": at.gated,
        "a static network": at.static,
        "None": None,
        "a number": 3,
        "a path": Path("ckpt.pt"),
        "a class": nn.Conv2d,
        "a state dict": at.plain.state_dict(),
        "a wrapper": Half(at.gated),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_an_odd_call_works_or_says_what_to_do(name: str, at: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(at.folder / "empty")
    try:
        CASES[name](at)
    except Gate2StaticError as error:
        text = str(error)
        assert len(text) < 1_000
        assert "Traceback" not in text
    assert (at.folder / "file").read_text() == "theirs"


def test_there_are_many_odd_calls() -> None:
    assert len(CASES) >= 150
