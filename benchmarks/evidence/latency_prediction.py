"""How well a latency table predicts whole networks: random gated networks, predicted and measured side by side.

Run:  python -m benchmarks.evidence.latency_prediction [--networks N] [--quick]
Allowed: a median error of 7 % on ONNX Runtime's CPU backend.

Each backbone is profiled once, from networks that are not among those predicted. A network is measured in turns with
the first of those, and both of its latencies, predicted and measured, are taken over that one's: how fast the machine
is just now, as against when it was profiled, counts for neither. Networks, tables and measurements are kept in
`--folder`, so that an interrupted run goes on where it stopped; `--networks 0` only makes the tables.
"""

import argparse
import json
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import nn

from gate2static import benchmark, gate, load_static, prune
from gate2static.export.onnx_tracing import trace_onnx
from gate2static.latency import LatencyTable, calibrated, load_latency_table
from gate2static.profiling import profile
from gate2static.progress import progress_bar

ALLOWED = 0.07
BACKBONES = ("resnet18", "vit", "mobilenet")
PROFILED, QUICK = 2, 3  # networks that a backbone's table is made from; networks of a quick run
CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A random gated network: gates drawn with probability `p`, neighbouring channels in groups."""

    backbone: str
    tasks: int
    side: int
    p: float
    group_size: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.backbone}-{self.tasks}-{self.side}-{self.p:.2f}-{self.group_size}-{self.seed}"


def main() -> None:
    """Print a row for every network and end with status 1 where the median error is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} networks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--duration", type=float, default=1.0, help="timed seconds of each network")
    parser.add_argument("--folder", type=Path, default=Path("runs/latency-prediction"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    wanted = QUICK if arguments.quick else arguments.networks
    with progress_bar(visible=True) as bar:
        task = bar.add_task("making networks", total=wanted + PROFILED * len(BACKBONES))
        cases = list(draw(wanted, offset=0))
        profiled = {b: [c for c in draw(99, offset=1000) if c.backbone == b][:PROFILED] for b in BACKBONES}
        for case in [*(c for some in profiled.values() for c in some), *cases]:
            make(case, arguments.folder)
            bar.advance(task)
        rows, task = [], bar.add_task("comparing", total=wanted)
        for backbone in sorted({case.backbone for case in cases}) or BACKBONES:
            table, reference = table_of(backbone, profiled[backbone], arguments), profiled[backbone][0]
            reference_ms = predict_ms(reference, table, arguments)
            for case in (c for c in cases if c.backbone == backbone):
                rows.append(compare(case, table, reference, reference_ms, arguments))
                bar.advance(task)
    show(rows, arguments)


def draw(count: int, *, offset: int) -> Iterator[Case]:
    """Networks in turn of every backbone; the same ones at every run."""
    for index in range(count):
        rng = random.Random(offset + index)
        yield Case(
            backbone=BACKBONES[index % len(BACKBONES)],
            tasks=rng.choice([2, 3]),
            side=rng.choice([160, 192, 224]),
            p=round(rng.uniform(0.05, 0.9), 2),
            group_size=rng.choice([1, 4, 16]),
            seed=offset + index,
        )


def make(case: Case, folder: Path) -> None:
    """Save the static network and its ONNX file, unless they are there."""
    place = folder / case.name
    if (place / "model.onnx").exists():
        return
    torch.manual_seed(case.seed)
    backbone, width = backbone_of(case)
    tasks = [f"task{t}" for t in range(case.tasks)]
    gated = gate(
        backbone.eval(),
        tasks=tasks,
        example_inputs=(torch.randn(1, 3, case.side, case.side),),
        heads={task: nn.Linear(width, CLASSES) for task in tasks},
        group_size=case.group_size,
    ).eval()
    with torch.no_grad():
        for unit in gated.gates.values():
            unit.alpha.copy_((torch.rand_like(unit.alpha) < case.p).float() - 0.5)
    static = prune(gated)
    static.save(place / "static")
    (place / "model.onnx").write_bytes(
        trace_onnx(static.deployed(), opset=None, precision="fp32").SerializeToString()
    )


def backbone_of(case: Case) -> tuple[nn.Module, int]:
    """The network without its classifier, and how many features it gives."""
    if case.backbone == "resnet18":
        network = torchvision.models.resnet18()
        network.fc = nn.Identity()
        return network, 512
    if case.backbone == "mobilenet":
        network = torchvision.models.mobilenet_v3_large()
        network.classifier = nn.Identity()
        return network, 960
    name = "vit_tiny_patch16_224"
    return timm.create_model(name, img_size=case.side, num_classes=0, depth=6), 192


def table_of(backbone: str, cases: list[Case], arguments: argparse.Namespace) -> LatencyTable:
    """The backbone's latency table, measured unless it is there."""
    path = arguments.folder / f"{backbone}-{arguments.backend}-{arguments.threads}.json"
    if not path.exists():
        statics = [load_static(arguments.folder / case.name / "static") for case in cases]
        networks = [(static.deployed(), static.example_inputs(1)) for static in statics]
        alone = profile(networks, backend=arguments.backend, threads=arguments.threads)
        times = measure_ms(cases, arguments)
        whole = [(*network, ms) for network, ms in zip(networks, times, strict=True)]
        calibrated(alone, whole).save(path)
    return load_latency_table(path)


def compare(
    case: Case, table: LatencyTable, reference: Case, reference_ms: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Predict and measure one network, and take both over the reference's."""
    predicted = predict_ms(case, table, arguments)
    kept = arguments.folder / case.name / f"{arguments.backend}-{arguments.threads}-with-{reference.name}.json"
    if not kept.exists():
        kept.write_text(json.dumps(measure_ms([case, reference], arguments)))
    measured = json.loads(kept.read_text())
    ratios = {"predicted": predicted / reference_ms, "measured": measured[0] / measured[1]}
    error, error_ms = ratios["predicted"] / ratios["measured"] - 1, predicted / measured[0] - 1
    return asdict(case) | ratios | {"error": error, "error_ms": error_ms, "ms": measured[0]}


def predict_ms(case: Case, table: LatencyTable, arguments: argparse.Namespace) -> float:
    """Latency in ms."""
    static = load_static(arguments.folder / case.name / "static")
    return table.predict_ms(static.deployed(), static.example_inputs(1))


def measure_ms(cases: list[Case], arguments: argparse.Namespace) -> list[float]:
    """Median latencies in ms, of networks that take turns."""
    name = "static" if arguments.backend.startswith("torch") else "model.onnx"
    report = benchmark(
        {case.name: arguments.folder / case.name / name for case in cases},
        backends=[arguments.backend],
        threads=arguments.threads,
        rounds=3,
        duration_s=arguments.duration,
        progress=False,
    )
    return [target.median_ms for target in report.targets]


def show(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The table, and the medians."""
    if not rows:
        return
    table = Table("backbone", "T", "px", "p", "group", "ms", "predicted", "measured", "error")
    for row in rows:
        size = [str(row[key]) for key in ("tasks", "side", "p", "group_size")]
        times = [f"{row['ms']:.1f}", f"{row['predicted']:.3f}×", f"{row['measured']:.3f}×", f"{row['error']:+.1%}"]
        table.add_row(row["backbone"], *size, *times)
    console = Console()
    console.print(table)
    for backbone in BACKBONES:
        if errors := [abs(row["error"]) for row in rows if row["backbone"] == backbone]:
            console.print(f"{backbone}: median error {median(errors):.1%}, largest {max(errors):.1%}")
    error, error_ms = (median(abs(row[key]) for row in rows) for key in ("error", "error_ms"))
    console.print(f"in milliseconds, whatever the machine did since the table was made: median error {error_ms:.1%}")
    console.print(f"{arguments.backend}, {len(rows)} networks: median error {error:.1%} (allowed {ALLOWED:.0%})")
    sys.exit(error > ALLOWED)


if __name__ == "__main__":
    main()
