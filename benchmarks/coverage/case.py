"""One network through everything: `python -m benchmarks.coverage.case SUITE FAMILY MODEL RESULT.json [SKIPPED …]`.

The result is written after every step, so that whoever stops this process knows how far it came.
"""

import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import gate2static as g2s
from benchmarks.coverage.counting import counted_macs
from benchmarks.coverage.models import Case, build
from benchmarks.coverage.oracle import removable
from benchmarks.coverage.perturbing import perturb, settled_norms
from gate2static.verify.running import run_static

TASKS = ("a", "b")
SPECIFIC = 0.3
_TRAINED_IMAGES = 4
_ROUNDING_FACTOR, _ONNX_FLOOR = 16, 5e-5
_FLOAT64_PARAMETERS = 500_000_000
_LOAD = """
import sys, torch
torch.set_num_threads(1)
from gate2static.static import load_static
folder, inputs, outputs = sys.argv[1:]
with torch.no_grad():
    torch.save(load_static(folder)(torch.load(inputs)), outputs)
"""

Result = dict[str, Any]


class WrongResultError(Exception):
    """A step ran and what it found is wrong."""


class PooledHead(nn.Module):
    """Every output of the backbone averaged over all but batch and channels, side by side, and one linear layer."""

    def __init__(self, channels: int, outputs: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)

    def forward(self, features: Any) -> Tensor:
        """The backbone's output -> (batch, outputs)."""
        pooled = [f.mean(tuple(range(2, f.dim()))) if f.dim() > 2 else f for f in pytree.tree_leaves(features)]
        mixed: Tensor = self.linear(torch.cat(pooled, 1) if len(pooled) > 1 else pooled[0])
        return mixed


class Run:
    """The steps for one network; each is a column of the table and raises where it fails."""

    def __init__(self, backbone: nn.Module, images: Tensor, folder: Path, result: Result) -> None:
        self.backbone: nn.Module | None = backbone
        self.images, self.folder, self.result = images, folder, result
        self.gated: g2s.GatedModel
        self.static: g2s.StaticModel

    def gate(self) -> None:
        """Traced and lifted; then every stream gets its own weights and every gate is drawn."""
        assert self.backbone is not None
        with torch.no_grad():
            leaves = pytree.tree_leaves(self.backbone(self.images))
        heads = {task: PooledHead(sum(leaf.shape[1] for leaf in leaves)) for task in TASKS}
        start = time.perf_counter()
        self.gated = g2s.gate(self.backbone, tasks=TASKS, example_inputs=(self.images,), heads=heads)
        self.result["seconds"]["gate"] = time.perf_counter() - start
        self.backbone = None
        perturb(self.gated, specific=SPECIFIC)

    def train(self) -> None:
        """One step in training mode; what comes out after it must be alive."""
        gated = self.gated.train()
        optimiser = torch.optim.SGD(gated.parameters(), lr=0.01)
        with settled_norms(gated), _reached(gated) as reached:
            outputs = gated(torch.randn(_TRAINED_IMAGES, *self.images.shape[1:]))
            loss = sum((y.square().mean() for y in outputs.values()), torch.zeros(()))
            loss.backward()
        gradients = [p.grad for p in gated.parameters() if p.grad is not None]
        if not all(bool(g.isfinite().all()) for g in gradients):
            raise WrongResultError("a gradient is not finite")
        still = [n for n, unit in gated.gates.items() if unit.alpha.grad is None or not unit.alpha.grad.any()]
        # Some layers reach no output, such as those for tokens that no head reads; the first one always does.
        first = next(iter(gated.gates))
        if still := [n for n in still if n in reached or n == first]:
            raise WrongResultError(f"{len(still)} of {len(gated.gates)} gates get no gradient: {', '.join(still[:5])}")
        nn.utils.clip_grad_norm_(gated.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        gated.eval()
        with torch.no_grad():
            _check_alive(gated(torch.randn_like(self.images)))

    def prune(self) -> None:
        """The static network."""
        start = time.perf_counter()
        self.static = g2s.prune(self.gated.eval())
        self.result["seconds"]["prune"] = time.perf_counter() - start
        manifest = self.static.manifest
        self.result["macs"] = {"static": manifest.macs.static, "gated": manifest.macs.gated}
        self.result["barriers"] = dict(manifest.barriers)

    def equivalence(self) -> None:
        """`verify`: float64, and float32 as deployed, on images like those that the norms' statistics come from.

        Elsewhere a deep network with random weights is chaotic: float32 tells nothing of its outputs.
        """
        start = time.perf_counter()
        report = g2s.verify(self.gated, self.static, inputs=[(self.images,), (torch.randn_like(self.images),)])
        self.result["seconds"]["verify"] = time.perf_counter() - start
        self.result["float64_error"] = max(d.max_rel for d in report.per_task.values())
        report.require()

    def macs(self) -> None:
        """Predicted from the gates, stated in the manifest and counted on the static network by fvcore."""
        predicted = int(g2s.expected_macs(self.gated))
        stated = self.static.manifest.macs.static
        counted = counted_macs(self.static.network, self.static.example_inputs(1))
        self.result["macs"] |= {"predicted": predicted, "counted": counted}
        if not predicted == stated == counted:
            raise WrongResultError(f"predicted {predicted}, stated {stated}, counted {counted} MACs")

    def onnx(self) -> None:
        """ONNX Runtime against float64, by what float32 rounding costs torch."""
        path = self.folder / "model.onnx"
        g2s.export_onnx(self.static, path)
        inputs = self.static.example_inputs(2)
        with torch.no_grad():
            folded = self.static.deployed()(*inputs)
        # Not `static.double()`: networks convert to float32 here and there.
        truth = run_static(self.static, inputs, torch.float64)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        found = session.run(list(TASKS), {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
        worst = self.result["onnx_error"] = max(
            _relative(truth[t], torch.from_numpy(y)) for t, y in zip(TASKS, found, strict=True)
        )
        allowed = max(_ONNX_FLOOR, _ROUNDING_FACTOR * max(_relative(truth[t], folded[t]) for t in TASKS))
        if not worst <= allowed:
            raise WrongResultError(f"ONNX Runtime is {worst:.1e} away from float64, allowed {allowed:.1e}")

    def load(self) -> None:
        """Saved, and loaded by a process that knows neither the network nor its library: the same bits."""
        inputs = self.static.example_inputs(2)
        paths = [str(self.folder / name) for name in ("static", "inputs.pt", "outputs.pt")]
        self.static.save(paths[0])
        torch.save(inputs[0], paths[1])
        done = subprocess.run([sys.executable, "-c", _LOAD, *paths], capture_output=True, text=True, check=False)
        if done.returncode:
            raise WrongResultError(f"the fresh process failed: {done.stderr.strip().splitlines()[-1]}")
        with torch.no_grad():
            expected = self.static(*inputs)
        found: Mapping[str, Tensor] = torch.load(paths[2])
        if different := [task for task in TASKS if not torch.equal(expected[task], found[task])]:
            raise WrongResultError(f"outputs of {', '.join(different)} differ in a fresh process")

    def removed(self) -> None:
        """Against the oracle."""
        small = sum(p.numel() for p in self.gated.parameters()) <= _FLOAT64_PARAMETERS
        dtype = torch.float64 if small else torch.float32
        found = removable(self.gated.to(dtype), self.images[:1].to(dtype))
        static = self.result["macs"].get("counted", self.result["macs"]["static"])
        self.result["macs"] |= {"oracle_gated": found.gated, "perfect": round(found.perfect)}
        self.result["stateless"] = found.stateless
        self.result["removed"] = (found.gated - static) / max(1.0, found.gated - found.perfect)


COLUMNS: dict[str, tuple[Callable[[Run], None], str | None]] = {
    "gate": (Run.gate, None),
    "train": (Run.train, "gate"),
    "prune": (Run.prune, "gate"),
    "equivalence": (Run.equivalence, "prune"),
    "macs": (Run.macs, "prune"),
    "onnx": (Run.onnx, "prune"),
    "load": (Run.load, "prune"),
    "removed": (Run.removed, "prune"),
}
"""Column -> the step and the column without which it cannot run."""


def run_network(
    backbone: nn.Module,
    images: Tensor,
    *,
    skip: Collection[str] = (),
    record: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Take one network through every column.

    Args:
        backbone: in eval mode.
        images: a batch of two.
        skip: columns to leave out.
        record: called with the result so far before each step; `running` names it.

    Returns:
        `columns`: column -> "ok" or the error; what could not be tried is absent. And what was measured.
    """
    result: Result = {
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "size": list(images.shape[1:]),
        "columns": {},
        "seconds": {},
        "tracebacks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        run = Run(backbone, images, Path(folder), result)
        del backbone
        for column, (step, needed) in COLUMNS.items():
            if column in skip or (needed is not None and result["columns"].get(needed) != "ok"):
                continue
            record(result | {"running": column})
            result["columns"][column] = _attempt(partial(step, run), column, result)
    return result


def _attempt(step: Callable[[], None], column: str, result: Result) -> str:
    start = time.perf_counter()
    try:
        step()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is what the table is for
        result["tracebacks"][column] = traceback.format_exc()[-4000:]
        kind = "" if isinstance(error, WrongResultError) else f"{type(error).__name__}: "
        return kind + " ".join(str(error).split())[:600]
    finally:
        result["seconds"][f"{column} column"] = time.perf_counter() - start
    return "ok"


@contextmanager
def _reached(gated: g2s.GatedModel) -> Iterator[set[str]]:
    """The units whose gated features get a gradient."""
    reached: set[str] = set()

    def note(name: str, gate: nn.Module, inputs: Any, outputs: tuple[Tensor | None, ...]) -> None:
        if any(g is not None and bool(g.any()) for g in outputs):
            reached.add(name)

    handles = [gate.register_full_backward_hook(partial(note, name)) for name, gate in gated.gates.items()]
    try:
        yield reached
    finally:
        for handle in handles:
            handle.remove()


def _check_alive(outputs: Mapping[str, Tensor]) -> None:
    for task, y in outputs.items():
        scale = float(y.abs().max())
        if not bool(y.isfinite().all()):
            raise WrongResultError(f"not meaningful: the output of {task} is not finite")
        if float((y[0] - y[1]).abs().max()) <= 1e-5 * scale:
            raise WrongResultError(f"not meaningful: the output of {task} does not depend on the image")


def _relative(expected: Tensor, found: Tensor) -> float:
    error = float((expected.double() - found.double()).abs().max() / expected.double().abs().max())
    return error if error == error else float("inf")


def main() -> None:
    """Run the case that the command line names."""
    suite, family, model, path, *skip = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    case = Case(suite=suite, family=family, model=model)

    def record(result: Result) -> None:
        staging = Path(path).with_suffix(".part")
        staging.write_text(json.dumps(result | {"suite": suite, "family": family, "model": model}, indent=1))
        staging.replace(path)

    start = time.perf_counter()
    record({"columns": {}, "running": "gate"})
    try:
        backbone, images = build(case)
    except Exception as error:  # noqa: BLE001
        failed = {"gate": f"cannot be built: {error}"}
        record({"columns": failed, "seconds": {}, "tracebacks": {"gate": traceback.format_exc()[-4000:]}})
        return
    result = run_network(backbone, images, skip=skip, record=record)
    result["seconds"]["total"] = time.perf_counter() - start
    record(result)


if __name__ == "__main__":
    main()
