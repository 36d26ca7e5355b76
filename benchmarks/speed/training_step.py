"""What lifting costs: a gated training step against the T+1 bare backbones run one after another.

Run:  python -m benchmarks.speed.training_step
Allowed: at most 1.10. Both sides run in turn in one process, on one thread, and are measured in CPU seconds, which
other programs do not change much; the figure is the median of the ratios.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torchvision import models

import gate2static as g2s


def main() -> None:
    """Print the ratio for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50", "vgg11_bn"])
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.backbones:
        ratios = compare(name, arguments.tasks, arguments.batch, arguments.size, arguments.rounds)
        quartiles = statistics.quantiles(ratios, n=4)
        print(
            f"{name}, T = {arguments.tasks}, batch {arguments.batch} at {arguments.size}: gated step / bare steps = "
            f"{statistics.median(ratios):.3f} (quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f})",
            flush=True,
        )


def compare(name: str, tasks: int, batch: int, size: int, rounds: int) -> list[float]:
    """Time ratios of a forward and backward pass, one a round."""
    torch.manual_seed(0)
    backbone = getattr(models, name)(num_classes=16).train()
    x = torch.randn(batch, 3, size, size)
    names = [f"t{i}" for i in range(tasks)]
    gated = g2s.gate(backbone, tasks=names, example_inputs=(x[:1],), heads={t: nn.Identity() for t in names}).train()
    bare = [copy.deepcopy(backbone) for _ in range(tasks + 1)]

    def gated_step() -> None:
        sum(y.square().mean() for y in gated(x).values()).backward()
        gated.zero_grad()

    def bare_steps() -> None:
        for network in bare:
            network(x).square().mean().backward()
            network.zero_grad()

    for step in (gated_step, bare_steps):
        step()
    return [_seconds(gated_step) / _seconds(bare_steps) for _ in range(rounds)]


def _seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


if __name__ == "__main__":
    main()
