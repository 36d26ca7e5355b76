"""What translating operator by operator costs against torch's own exporter, and what ONNX Runtime makes of both files.

Run:  python -m benchmarks.speed.onnx_export [--networks NAME ...]
Each network of timm is gated for two tasks, drawn at p = 0.3 and pruned, then exported in both ways. Exports are
measured
in CPU seconds, runs in rounds side by side on one thread; nodes are those that ONNX Runtime is left with.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import onnx
import onnxruntime
import timm
import torch
from torch import nn

import gate2static as g2s
from gate2static.export import onnx_tracing
from gate2static.static import StaticModel

NETWORKS = ("resnet18", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "hiera_tiny_224")
SIDE, TASKS, SPECIFIC = 224, ("a", "b"), 0.3


def main() -> None:
    """Print a row for every network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| network | export, CPU s: ours / torch's | nodes run: ours / its | run time, ratio |")
    print("|---|---|---|---|")
    for name in arguments.networks:
        static = pruned(name)
        ours, seconds = measured(lambda copied: onnx_tracing.trace_onnx(copied, opset=None, precision="fp32"), static)
        theirs, their_seconds = measured(exported_by_torch, static)
        print(
            f"| {name} | {seconds:.0f} / {their_seconds:.0f} | {nodes_run(ours)} / {nodes_run(theirs)} | "
            f"{run_ratio(ours, theirs, static, arguments.rounds):.2f} |",
            flush=True,
        )


def pruned(name: str) -> StaticModel:
    """A network of timm for two tasks, pruned by gates drawn at random."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0).eval()
    example = torch.randn(2, 3, SIDE, SIDE)
    features = backbone(example).shape[1]
    heads = {task: nn.Linear(features, 10) for task in TASKS}
    gated = g2s.gate(backbone, tasks=TASKS, example_inputs=(example,), heads=heads).eval()
    decisions = g2s.gate_decisions(gated)
    g2s.set_gates(gated, {unit: torch.rand(d.shape) < SPECIFIC for unit, d in decisions.items()})
    return g2s.prune(gated).deployed()


def measured(
    export: Callable[[StaticModel], onnx.ModelProto], static: StaticModel
) -> tuple[onnx.ModelProto, float]:
    """The ONNX form, and the CPU seconds that it took."""
    copied = deepcopy(static)
    start = time.process_time()
    model = export(copied)
    return model, time.process_time() - start


def exported_by_torch(static: StaticModel) -> onnx.ModelProto:
    """The ONNX form by torch's exporter, with its optimiser."""
    form = onnx_tracing._DeploymentForm(static, static.tasks, "fp32").eval()
    inputs = static.example_inputs(2)
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),)
    program = torch.onnx.export(form, inputs, dynamo=True, verbose=False, dynamic_shapes=shapes)
    assert program is not None
    return program.model_proto


def nodes_run(model: onnx.ModelProto) -> int:
    """Nodes of the graph that ONNX Runtime's own optimiser arrives at."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        session(model, path)
        return len(onnx.load(path).graph.node)


def session(model: onnx.ModelProto, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """On one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_ratio(ours: onnx.ModelProto, theirs: onnx.ModelProto, static: StaticModel, rounds: int) -> float:
    """The median of the rounds' ratios of run times."""
    both = session(ours), session(theirs)
    inputs = [x.numpy() for x in static.example_inputs(1)]
    feeds = [dict(zip([i.name for i in one.get_inputs()], inputs, strict=True)) for one in both]
    ratios = []
    for _ in range(rounds):
        seconds = []
        for one, feed in zip(both, feeds, strict=True):
            start = time.perf_counter()
            one.run(None, feed)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return median(ratios)


if __name__ == "__main__":
    main()
