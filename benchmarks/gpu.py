"""What only a machine with an NVIDIA GPU can show: latencies on every runner, engines against torch, a training step.

    python -m benchmarks.gpu                                         # at most 8 minutes; docs/gpu.md, results/gpu.json
    python -m benchmarks.gpu --device cpu --quick --out FOLDER       # the script itself, on tiny networks, in a minute

Needs `pip install 'gate2static[gpu,trt,train]'`. Each part runs in a process of its own, with a limit of its own, and
writes its rows as they come: what fails or takes too long is a row that says why, and costs no other row.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import gate2static as g2s
from benchmarks.latency_fidelity.cases import SIZE, TASKS, Gates, draw
from benchmarks.latency_fidelity.cases import gated_network as large_network
from gate2static.bench.environment import describe_environment
from gate2static.bench.runners.tensorrt import open_tensorrt
from gate2static.bench.sources import EngineSource
from gate2static.errors import Gate2StaticError
from gate2static.gates import GatedModel
from gate2static.messages import brief
from gate2static.static import StaticModel
from gate2static.verify.difference import difference

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
GATES = Gates(share=0.25, group_size="layer", mixing="hard")
BACKENDS = {"cuda": ("torch-cuda", "torch-cuda-graph", "onnxruntime-cuda"), "cpu": ("torch", "onnxruntime")}
PARTS = {"resnet18": 110, "training": 60, "resnet50": 140, "vit_small": 140}
"""A network whose latencies are measured, or the training step -> its limit in seconds; 450 in all."""
QUICK_PARTS = {"tiny": 300, "training": 300}
_TIMING: dict[str, Any] = {"rounds": 3, "duration_s": 0.6, "progress": False, "threads": 1}
_QUICK_TIMING: dict[str, Any] = {**_TIMING, "rounds": 2, "duration_s": 0.02, "warmup_s": 0.0}
_ROW = '{"kind":'
_TITLES = {"latency": "Latency", "engine": "Engines against torch", "training": "Training step", "failure": "Failures"}
_PAGE = """# On a GPU

{machine}; {versions}. `python -m benchmarks.gpu` writes this page. Networks have three tasks, and random gates of whole
layers, of which a quarter is specific. Batch size 1; ratios are of rounds side by side. A training step has 16 images
of 224×224 on a ResNet-50, update included."""


def latencies(name: str, device: str, *, quick: bool) -> Iterator[Row]:
    """Yields the latencies of a network's three structures on every runner, and how engines compare with torch."""
    timing = _QUICK_TIMING if quick else _TIMING
    networks = statics(gated_network(name))
    macs = {structure: static.manifest.macs.static for structure, static in networks.items()}

    def timed(targets: Mapping[str, Any], backend: str) -> Iterator[Row]:
        report = g2s.benchmark(targets, backends=[backend], **timing)
        for target in report.targets:
            yield {
                "kind": "latency",
                "network": name,
                "structure": target.name,
                "backend": backend,
                "precision": target.precision,
                "median_ms": target.median_ms,
                "over_separate": report.ratio(target),
                "macs_over_separate": macs[target.name] / macs["separate"],
            }

    for backend in BACKENDS[device]:
        yield from _or_failure(f"{name} on {backend}", timed(networks, backend))
    if device == "cpu":
        return
    with TemporaryDirectory() as folder:
        for precision in ("fp16", "fp32"):
            label = f"{name} on tensorrt, {precision}"
            engines: dict[str, Path] = {}
            yield from _or_failure(label, _built(name, networks, Path(folder), precision, engines))
            if "separate" in engines:
                yield from _or_failure(label, timed(engines, "tensorrt"))


def _built(
    name: str, networks: Mapping[str, StaticModel], folder: Path, precision: Any, engines: dict[str, Path]
) -> Iterator[Row]:
    """Builds an engine per structure, runs it and compares it with torch; adds it to `engines`."""
    for structure, static in networks.items():
        onnx = folder / f"{structure}.{precision}.onnx"
        g2s.export_onnx(static, onnx, precision=precision)
        built = g2s.build_engine(onnx, onnx.with_suffix(".engine"), backend="tensorrt", batch=(1, 1, 1))
        with open_tensorrt(EngineSource(path=built.path, sidecar=built.sidecar), batch_size=1, threads=1) as runner:
            runner.run()
            torch.cuda.synchronize()
            assert runner.tensors is not None
            inputs, outputs = runner.tensors
            truth = static.outputs(*(x.cpu() for x in inputs)).values()
            error = max(difference(a, b.float().cpu()).max_rel for a, b in zip(truth, outputs, strict=True))
        engines[structure] = built.path
        row = {"kind": "engine", "network": name, "structure": structure, "precision": precision}
        yield {**row, "build_s": built.build_s, "relative_error": error}


def training(device: str, *, quick: bool) -> Iterator[Row]:
    """Yields a training step of the gated network beside one of plain multi-task learning and one per task.

    As in table 9 of the paper, plain multi-task learning is one backbone with a head per task.
    """
    gated = gated_network("tiny" if quick else "resnet50")
    networks = statics(gated)
    trained: dict[str, nn.Module] = {
        "plain multi-task learning": networks["shared"].trainable(),
        "one network per task": networks["separate"].trainable(),
        "gated": gated,  # a step computes every stream, whatever its gates say
    }
    x = torch.randn((2, 3, 16, 16) if quick else (16, 3, SIZE, SIZE), device=device)
    reference: float | None = None
    for what, network in trained.items():
        network.to(device).train()

        def loss(network: nn.Module = network) -> Tensor:
            error = torch.stack([y.square().mean() for y in network(x).values()]).sum()
            if network is not gated:
                return error
            return error + g2s.sparsity_hinge(gated, targets=dict.fromkeys(TASKS, 0.5))

        step_ms = _step_ms(network, loss, quick)
        reference = reference or step_ms
        yield {"kind": "training", "what": what, "step_ms": step_ms, "over_plain": step_ms / reference}


def _step_ms(network: nn.Module, loss: Callable[[], Tensor], quick: bool) -> float:
    """Returns the median time of forward, backward and update."""
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    has_gpu = next(network.parameters()).is_cuda
    seconds = []
    for _ in range(4 if quick else 40):
        start = time.perf_counter()
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        if has_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    warm = seconds[len(seconds) // 4 :]
    return 1000 * statistics.median(warm)


def gated_network(name: str) -> GatedModel:
    """Returns a network with random weights and gates drawn for whole layers, in eval mode."""
    if name != "tiny":
        gated = large_network(name, GATES)
    else:
        layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        heads = {task: nn.Linear(8, 4) for task in TASKS}
        x = torch.randn(2, 3, 16, 16)
        gated = g2s.gate(backbone, tasks=TASKS, example_inputs=(x,), heads=heads, group_size="layer", mixing="hard")
    draw(gated, GATES)
    return gated.eval()


def statics(gated: GatedModel) -> dict[str, StaticModel]:
    """Returns a network with separate streams, with one shared stream, and as its gates say; these are changed."""
    mixed = g2s.prune(gated)
    found = {}
    for structure, is_specific in (("separate", True), ("shared", False)):
        g2s.set_gates(gated, is_specific)
        found[structure] = g2s.prune(gated)
    return {**found, "gated": mixed}


def _or_failure(what: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Yields rows, and where they end with an error, a row that says so."""
    try:
        yield from rows
    except (Gate2StaticError, RuntimeError, ImportError, OSError) as error:
        yield _failure(what, str(error))


def _failure(what: str, reason: str) -> Row:
    return {"kind": "failure", "what": what, "reason": brief(reason.replace("|", "/"), 160)}


def measured(part: str, limit_s: float, arguments: Sequence[str]) -> list[Row]:
    """Returns the rows of a part that runs in a process of its own, for at most `limit_s` seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--part", part]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=limit_s, capture_output=True)
        output = done.stdout
        messages = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        ending = [_failure(part, f"ended with {done.returncode}: {messages[-1]}")] if done.returncode else []
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        ending = [_failure(part, f"stopped after its limit of {limit_s:g} s; its other rows were measured before")]
    lines = output.decode(errors="replace").splitlines(keepends=True)
    # Libraries print too, and the last line of what was stopped may be cut off.
    return [json.loads(line) for line in lines if line.startswith(_ROW) and line.endswith("\n")] + ending


def page(content: Mapping[str, Any]) -> str:
    """Returns the page of a measurement."""
    machine = content["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [_PAGE.format(machine=machine["gpu"] or machine["cpu"], versions=versions)]
    for kind, title in _TITLES.items():
        rows = [row for row in content["rows"] if row["kind"] == kind]
        if rows:
            columns = list(rows[0])[1:]
            lines += ["", f"## {title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            cells = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()][1:] for row in rows]
            lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures all parts, and writes the page and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(BACKENDS), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to try the script")
    parser.add_argument("--out", type=Path, help="folder of gpu.md and gpu.json, where no GPU is measured in full")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        torch.manual_seed(0)
        rows_of = training if options.part == "training" else partial(latencies, options.part)
        for row in rows_of(options.device, quick=options.quick):
            print(json.dumps(row), flush=True)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; try the script itself with --device cpu --quick --out FOLDER")
    if options.out is None and (options.quick or options.device == "cpu"):
        parser.error("docs/gpu.md is for a whole measurement on a GPU: give --out FOLDER")
    arguments = ["--device", options.device, *(["--quick"] if options.quick else [])]
    parts = QUICK_PARTS if options.quick else PARTS
    rows = [row for part, limit_s in parts.items() for row in measured(part, limit_s, arguments)]
    content = {"environment": describe_environment(threads=1).model_dump(), "rows": rows}
    docs, results = (options.out,) * 2 if options.out else (ROOT / "docs", ROOT / "benchmarks" / "results")
    docs.mkdir(parents=True, exist_ok=True)
    (results / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    (docs / "gpu.md").write_text(page(content))
    print(page(content))


if __name__ == "__main__":
    main()
