"""What a training step of a static network costs, against the gated network's step and the same with frozen gates.

Run:  python -m benchmarks.speed.static_step        (the table of docs/fine_tuning.md)
All three run in turn in one process, on one thread, and are measured in CPU seconds; figures are medians of the ratios
of the rounds. A ResNet-18 of torchvision's with a head of two convolutions per task; each task has its own channel with
probability `p`. The share of the MACs is that of the static network in those of all T+1 streams.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import Tensor, nn
from torchvision import models

import gate2static as g2s
from gate2static.train.processes.memory import keep_freed_memory

GATES = {
    "64 hard, tied": {"preset": "deploy"},
    "16 hard": {"group_size": 16, "mixing": "hard"},
    "one per channel": {},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=96)
    parser.add_argument("--p", type=float, nargs="+", default=[0.1, 0.25, 0.5])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| gates | own channels | MACs / gated | time / gated | time / MACs | frozen gates: time / gated |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, options in GATES.items():
        for p in arguments.p:
            macs, of_static, of_frozen = _ratios(arguments, p, options)
            print(f"| {name} | {p:.0%} | {macs:.2f} | {of_static:.2f} | {of_static / macs:.2f} | {of_frozen:.2f} |")


def _ratios(arguments: argparse.Namespace, p: float, options: dict) -> tuple[float, float, float]:
    torch.manual_seed(0)
    x = torch.randn(arguments.batch, 3, arguments.pixels, arguments.pixels)
    gated = _gated(arguments.tasks, x, options)
    with torch.no_grad():
        for gate in {id(gate.alpha): gate for gate in gated.gates.values()}.values():
            gate.alpha.copy_(torch.where(torch.rand_like(gate.alpha) < p, 1.0, -1.0))
    static = g2s.prune(gated)
    frozen = copy.deepcopy(gated)
    g2s.freeze_gates(frozen)
    networks = (gated.train(), frozen.train(), static.trainable())
    rounds = [[_seconds(network, x) for network in networks] for _ in range(arguments.rounds + 1)][1:]
    macs = static.manifest.macs
    of_static = statistics.median(trained / whole for whole, _, trained in rounds)
    of_frozen = statistics.median(settled / whole for whole, settled, _ in rounds)
    return macs.static / macs.gated, of_static, of_frozen


def _gated(tasks: int, x: Tensor, options: dict) -> g2s.GatedModel:
    backbone = nn.Sequential(*list(models.resnet18().children())[:-2])
    names = [f"t{number}" for number in range(tasks)]
    heads = {name: nn.Sequential(nn.Conv2d(512, 16, 1), nn.ReLU(), nn.Conv2d(16, 3, 1)) for name in names}
    return g2s.gate(backbone, tasks=names, example_inputs=(x[:2],), heads=heads, **options)


def _seconds(network: nn.Module, x: Tensor) -> float:
    network.zero_grad(set_to_none=True)
    start = time.process_time()
    sum(output.square().mean() for output in network(x).values()).backward()
    return time.process_time() - start


if __name__ == "__main__":
    main()
