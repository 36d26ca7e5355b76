"""Budgets: how near the static network's cost comes to what was asked, and what the controller does on the way.

Run:  python -m benchmarks.evidence.budgets [--latency | --timed | --training DIR]
Allowed: reached / budget between 0.99 and 1 wherever the network was above the budget, never more than 1.
With --latency, ResNet-18 is profiled here (ONNX Runtime, one thread), given budgets in latency as shares of three
separate networks, and measured beside these: allowed is 5 % above or below the budget, and no more by prediction.
With --timed, the networks that the projection tries are timed instead, laid out for ONNX Runtime, without a table:
three quarters of an hour.
With --training, the demo's digits are trained in DIR too: at two budgets, and at fixed λ for comparison; minutes.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn
from torchvision import models

import gate2static as g2s
from gate2static.demo import bundled_recipe
from gate2static.models.backbones.resnet20 import ResNet20
from gate2static.profiling import profile_gated
from gate2static.recipe import load_recipe
from gate2static.train import train

SHARES = (0.4, 0.5, 0.6, 0.75, 0.9)
LATENCY_SHARES = (0.6, 0.8)
TASKS = ("a", "b", "c")

SHORT = (
    "training.device=cpu",
    "data.options.train_images=1024",
    "training.single.epochs=4",
    "training.shared.epochs=6",
    "training.gated.epochs=6",
    "training.gated.gates.schedule.kind=constant",
    "gating.gate_init_std=0.05",
    *(f"tasks.{i}.target=0" for i in range(3)),
)
"""λ is steered to the end, so the gates keep their learning rate, no hinge target stops them, and they start spread
out: gates that all start at one α would all cross 0 at once."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latency", action="store_true", help="Budgets in latency, predicted and measured; minutes.")
    parser.add_argument(
        "--timed", action="store_true", help="Budgets in latency, timed instead of predicted; 45 minutes."
    )
    parser.add_argument("--training", type=Path, help="Train the digits there; an existing folder is gone on with.")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.7])
    parser.add_argument("--fixed", nargs="+", type=float, default=[16, 64], help="λ to compare with.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.latency or arguments.timed:
        latency(timed=arguments.timed)
    elif arguments.training is None:
        random_gates()
    else:
        training(arguments.training, arguments.budgets, arguments.fixed)


def random_gates() -> None:
    """Random α, all networks above their budgets: cost before, flips, and reached / budget."""
    print("| network | channels a gate | " + " | ".join(f"{share:g}" for share in SHARES) + " |")
    print("|---|---" + "|---:" * len(SHARES) + "|")
    for name in ("resnet20", "resnet18"):
        for group_size in (1, 16) if name == "resnet20" else (1, 16, 64):
            reached = []
            for share in SHARES:
                report = g2s.project_to_budget(random_network(name, group_size), g2s.Budget(macs=share))
                reached.append(report.after["network"] / report.limits["network"])
            sound = all(0.99 <= ratio <= 1 for ratio in reached)
            cells = " | ".join(f"{ratio:.4f}" for ratio in reached)
            print(f"| {name} | {group_size} | {cells} |{'' if sound else ' NOT WITHIN 1 %'}", flush=True)


def latency(*, timed: bool) -> None:
    """Budgets as shares of three separate networks: what the projection says, and what is measured afterwards."""
    target = "ort-cpu" if timed else "any"
    print("| channels a gate | budget | flips | as projected / budget | measured / budget |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        for group_size in (16, 64):
            gated = random_network("resnet18", group_size, 224)
            if not timed:
                profile_gated(gated, backend="onnxruntime", threads=1).save(table)
            g2s.set_gates(gated, True)
            separate = g2s.prune(gated, target=target)
            for share in LATENCY_SHARES:
                gated = random_network("resnet18", group_size, 224)
                budget = g2s.Budget(latency=share, device="onnxruntime" if timed else str(table))
                watch = g2s.Stopwatch("onnxruntime", threads=1) if timed else None
                report = g2s.project_to_budget(gated, budget, measure=watch, target=target)
                projected = report.after["network"] / report.limits["network"]
                found = g2s.benchmark(
                    {"static": g2s.prune(gated, target=target), "separate": separate},
                    backends=["onnxruntime"], threads=1, rounds=15, duration_s=3,
                )  # fmt: skip
                measured = found.ratio(found.targets[0], found.targets[1]) / share
                flips = sum(report.flips.values())
                print(f"| {group_size} | {share:g} | {flips} | {projected:.3f} | {measured:.3f} |", flush=True)


class Last(nn.Module):
    """The last feature map, pooled."""

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Maps of (N, C, H, W) -> (N, C)."""
        return features[-1].mean((2, 3))


def random_network(name: str, group_size: int, size: int = 64) -> g2s.GatedModel:
    """Three tasks; nine gates in ten are open. ResNet-18 takes images of `size`."""
    torch.manual_seed(0)
    if name == "resnet20":
        backbone, channels, size = nn.Sequential(ResNet20(), Last()), 64, 32
    else:
        backbone, channels = models.resnet18(weights=None), 512
        backbone.fc = nn.Identity()
    return g2s.gate(
        backbone,
        tasks=TASKS,
        example_inputs=(torch.zeros(2, 3, size, size),),
        heads={task: nn.Linear(channels, 10) for task in TASKS},
        group_size=group_size,
        gate_init=1.3,
        gate_init_std=1.0,
    )


def training(folder: Path, budgets: list[float], fixed: list[float]) -> None:
    """Trains digits with the controller and with fixed λ; the baselines are trained once."""
    runs = [(f"budget {share:g}", (f"budget.macs={share}", "sparsity_weight=16")) for share in budgets]
    runs += [(f"λ = {weight:g}", (f"sparsity_weight={weight}",)) for weight in fixed]
    print("| run | λ by epoch | cost / budget, projected | flips | MACs (M) | left | right | mask |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for index, (label, overrides) in enumerate(runs):
        one = folder / str(index)
        if index and not one.exists():
            for baseline in ("separate", "shared"):
                shutil.copytree(folder / "0" / baseline, one / baseline)
        recipe = load_recipe(bundled_recipe(), [*SHORT, *overrides])
        result = train(recipe, one, resume=True, progress=False)
        row = result.rows[-1]
        log = (one / row.name / "log.csv").read_text().splitlines()
        column = log[0].split(",").index("lambda") if row.budget else None
        path = " ".join(f"{float(line.split(',')[column]):.3g}" for line in log[1:]) if column else label
        spent = flips = "–"
        if row.budget:
            (limit,) = row.budget.limits.values()
            spent = f"{row.budget.before['network'] / limit:.4f} → {row.budget.after['network'] / limit:.4f}"
            flips = str(sum(row.budget.flips.values()))
        metrics = " | ".join(f"{metric:.3f}" for metric in row.metrics.values())
        print(f"| {label} | {path} | {spent} | {flips} | {row.macs / 1e6:.3f} | {metrics} |", flush=True)


if __name__ == "__main__":
    main()
